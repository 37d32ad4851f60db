"""What an audit found, in plain words, and what its numbers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpssl_fed.audit.attack import AttackSuccess, Estimate
from mpssl_fed.audit.inversion import Inversion
from mpssl_fed.audit.memorisation import MemorisationAudit
from mpssl_fed.report.table import Table, make_table

REBUILT, TRACES = 0.5, 0.25
"""Correlations with the true image from which on a picture shows it, and from which on something of it."""
MASKED = (
    "The masked update is the same step under the masks of as few sites as the run's terms allow, read as an opened sum would be. "
    "It shows that what one site sends is noise to a server that keeps to the protocol: integers that to it are uniform have no "
    "better reading. It does not show what sums tell: the server opens the sum of at least m sites each round, sums of two rounds "
    "with one site more or less can be subtracted, and what a site repeats each round adds up. No attack on sums was tried here."
)
OF_A_SUM = "The sums that the server opens were not attacked: they are functions of the images still, which only noise bounds."
LEVEL = 0.05
"""Of the p-value below which samples are said to lie nearer to training images than chance lets them."""


@dataclass(frozen=True)
class Verdict:
    """A sentence; ``alarming``: it speaks of something that an attacker of this very run could do."""

    words: str
    alarming: bool = False


def of_claims(scope: str, tests: Sequence[tuple[str, bool]]) -> Verdict:
    """Return what (test, contradicts) pairs say of the epsilon that a run of this scope claims."""
    wrong = [name.strip() for name, contradicts in tests if contradicts]
    if wrong:
        subject = "The claimed epsilon does not hold" if scope != "off" else "This method's releases do not keep an epsilon of 1"
        return Verdict(f"{subject}: {of_tests(tests)}", True)
    if scope == "off":
        tried = " Under an epsilon of 1, which this method was tried at here, it would have kept it." if tests else ""
        return Verdict(f"This run claims no privacy (scope off), so there is no epsilon to hold it to.{tried}", True)
    if not tests:
        return Verdict("The claimed epsilon was not put to the test: that takes the audits 'mechanism' and 'canary'.")
    less = "the only one proves" if len(tests) == 1 else f"all {len(tests)} prove"
    kept = f"No test contradicts the claimed epsilon: {less} less. An audit can refute an epsilon, never prove one."
    return Verdict(f"{kept} It covers the labelled step alone." if scope == "labelled-step" else kept)


def of_tests(tests: Sequence[tuple[str, bool]]) -> str:
    """Return how many (test, contradicts) pairs contradict the claim, by name."""
    wrong = [name.strip() for name, contradicts in tests if contradicts]
    if not wrong:
        return f"{'The one test keeps' if len(tests) == 1 else f'All {len(tests)} tests keep'} within what is claimed."
    return f"{len(wrong)} of {len(tests)} tests contradict it ({'; '.join(wrong)})."


def of_membership(attacks: Sequence[AttackSuccess]) -> Verdict:
    """Return whether the published classifier tells its training images from others, by the best attack."""
    best = max(attacks, key=lambda attack: attack.auroc.low)
    area = best.auroc
    numbers = f"{best.attack}: AUROC {area.value:.2f}, 95 % interval {area.low:.2f} to {area.high:.2f}; 0.5 is a coin"
    if area.low > 0.5:
        return Verdict(f"The classifier tells its training {best.unit}s from others better than a coin would ({numbers}).", True)
    return Verdict(f"No attack told training {best.unit}s from others better than a coin would ({numbers}).")


def of_samples(found: MemorisationAudit) -> Verdict:
    """Return whether synthetic images lie nearer to the site's images than to others."""
    numbers = f"{100 * found.nearer.value:.0f} % nearer to one, where 50 % is chance; p {found.p_value:.3f}"
    nearer = found.p_value < LEVEL and found.nearer.value > 0.5
    if nearer:
        return Verdict(f"Synthetic images lie nearer to this site's images than to others, and would give some away ({numbers}).")
    return Verdict(f"Synthetic images lie no nearer to this site's images than to others ({numbers}).")


def of_inversion(scope: str, plain: Inversion, private: Inversion, masked: Inversion | None = None) -> Verdict:
    """Return whether an image could be rebuilt from what a run of this scope sends, and from a plain update.

    masked: the attempt on what a server sees of one site, where the run sums updates under masks.
    """
    if masked is not None:
        seen = _rebuilt(masked, "a masked update, which is all that the server sees of one site,")
        same = plain if scope == "off" else private
        clear = _rebuilt(same, "the same update in clear, which it would see without secure aggregation,")
        return Verdict(f"{seen} {clear} {OF_A_SUM}", masked.similarity >= TRACES)
    if scope == "off":
        sent = " This run sends plain updates, though of more images at once: whoever receives them can try the same."
        return Verdict(f"{_rebuilt(plain, 'a plain update')}{sent}", plain.similarity >= TRACES)
    sent, unsent = _rebuilt(private, "a private update, as this run sends,"), _rebuilt(plain, "a plain one, which it never sends,")
    return Verdict(f"{sent} {unsent}", private.similarity >= TRACES)


def _rebuilt(found: Inversion, source: str) -> str:
    number = f"made on it alone (correlation {found.similarity:.2f}; 1 is the image itself, 0 unrelated)"
    if found.similarity >= REBUILT:
        return f"An image of this site was rebuilt from {source} {number}."
    if found.similarity >= TRACES:
        return f"Traces of an image of this site show in what was rebuilt from {source} {number}."
    return f"No image was rebuilt from {source} {number}."


def membership_table(attacks: Sequence[AttackSuccess]) -> Table:
    """Return one line per attack: AUROC, and the share of training images or subjects found at few false alarms."""
    rates, lines = list(attacks[0].true_positives), []
    for attack in attacks:
        area = f"{attack.auroc.value:.3f} [{attack.auroc.low:.3f}, {attack.auroc.high:.3f}]"
        found = [_share(estimate) for estimate in attack.true_positives.values()]
        lines.append([attack.attack, str(attack.members), str(attack.others), area, *found])
    members = f"training {attacks[0].unit}s"
    columns = ["attack", members, "others", "AUROC", *(f"found at {100 * rate:g} % false alarms" for rate in rates)]
    return make_table(columns, lines, ["attack"])


def samples_table(found: MemorisationAudit) -> Table:
    """Return the numbers of the nearest neighbours."""
    numbers = [f"{number:.3f}" for number in (found.p_value, found.train, found.held_out)]
    columns = ["synthetic images", "images per side", "nearer to a training image", "p", "distance to these", "to others"]
    return make_table(columns, [[str(found.samples), str(found.images), _share(found.nearer), *numbers]])


def _share(found: Estimate) -> str:
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def inversion_table(found: Mapping[str, Inversion]) -> Table:
    """Return one line per update that was attacked."""
    lines = [[name, f"{one.similarity:.2f}", f"{one.gradient_similarity:.2f}"] for name, one in found.items()]
    return make_table(["update", "correlation with the image", "cosine of the gradients"], lines, ["update"])


TITLES = {
    "mechanism": "Mechanism: does each release add the noise it claims?",
    "canary": "Canaries: does a whole run keep its epsilon?",
    "membership": "Membership: does the classifier tell what it was trained on?",
    "samples": "Samples: would synthetic images give training images away?",
    "inversion": "Inversion: can an image be rebuilt from an update?",
}
CLAIM_TERMS = {
    "epsilon claimed": "Bound that the run states: what anyone can learn about one unit, on a scale where 0 is nothing.",
    "proved from below": "Epsilon that the test's success proves at least; above the claim, the claim is false.",
    "contradicts": "Yes where more is proved than is claimed, or the noise is not that which is claimed.",
}
TERMS: dict[str, dict[str, str]] = {
    "mechanism": CLAIM_TERMS
    | {
        "release": "A noised answer about private images: gradient, validation gradient ('meta') or feature mean ('feature').",
        "sigma": "Standard deviation of a release's noise, in clips.",
        "noise std": "Noise as measured, over what sigma says; 1 is honest.",
    },
    "canary": CLAIM_TERMS
    | {"canary": "A made-up record, put in or left out by a coin; the test counts how often its presence can be guessed."},
    "membership": {
        "AUROC": "Chance that the attack ranks a training image above another one; 0.5 is a coin, 1 certainty.",
        "false alarms": "Training images found while at most this share of other images is taken for one.",
        "shadow model": "A model that the attacker trains on data of the same kind, to learn how membership shows.",
        "[ , ]": "95 % interval.",
    },
    "samples": {
        "nearer to a training image": "Share of synthetic images whose nearest neighbour is the site's; 50 % gives nothing away",
        "p": "Chance of a share this large if nothing is given away.",
        "distance": "Median distance to the nearest image of that side, per pixel value on a scale from -1 to 1.",
    },
    "inversion": {
        "correlation with the image": "Likeness of the rebuilt picture and the true image: 1 the same, about 0 unrelated.",
        "cosine of the gradients": "How well the attacker matched the update; 1 is a perfect match.",
    },
}
