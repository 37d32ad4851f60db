"""What can be told from what a site gives out, as sections of the report: membership, samples, an update inverted."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from mpssl_fed.audit import words
from mpssl_fed.audit.audited import Audited, releases_of, some_of
from mpssl_fed.audit.inversion import exact_gradient, invert
from mpssl_fed.audit.masked import as_seen
from mpssl_fed.audit.membership import infer, shadow_trainer
from mpssl_fed.audit.memorisation import nearest_neighbours
from mpssl_fed.audit.report import Line, Section, picture
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.site.site import build_site_learner
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.method.supervised import loss_weights
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.seeds import numpy_rng

SAMPLES = 256
SHADOW_STEPS = 300


def membership(audited: Audited) -> Section:
    """Attacks on the released classifier: the loss, and LiRA with shadow models."""
    if audited.trained is None:
        raise UserError("membership: the run has no model.safetensors yet; let it finish, or leave 'membership' out of --what")
    config, rng = audited.config, numpy_rng(audited.seed, "membership")
    data = parts.dataset(config).train
    members = some_of(data.take(np.sort(np.concatenate(parts.shares(config)))), audited.most, rng)
    others = some_of(audited.held_out(), audited.most, rng)
    total = min(config.federation.rounds * config.federation.local_steps, SHADOW_STEPS)
    audited.tell(f"membership: {len(members)} members, {len(others)} others, {audited.shadows} shadow models of {total} steps")

    def told(k: int) -> None:
        audited.tell(f"membership: shadow {k + 1} of {audited.shadows}")

    def build() -> Classifier:
        return parts.initial_classifier(config)

    train = shadow_trainer(config, build, parts.generator(config), audited.flip, total, told) if audited.shadows else None
    found = infer(audited.trained, members, others, train, audited.shadows, audited.seed)
    claimed = plan_for(config).price_alone() if config.privacy.on else None
    lines = []
    for attack in found:
        rates = ", ".join(
            f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}] found at {100 * false:g} % false"
            for false, rate in attack.true_positives.items()
        )
        area = attack.auroc
        success = f"AUROC {area.value:.3f} [{area.low:.3f}, {area.high:.3f}]; {rates}"
        # An epsilon per image bounds nothing of a subject with several.
        bound = None if attack.unit == "subject" and config.privacy.unit == "image" else claimed
        lines.append(Line(f"membership by {attack.attack}", bound, None, success))
    note = (
        "Who sees the published classifier tells its training images from others of the same source. Shadow models are trained at "
        f"one place on half of both, with the run's method and privacy, {total} steps. Fewer others than 1000 put the threshold of "
        "0.1 % above them all."
    )
    if found[0].unit == "subject":
        note += " Whole subjects are told from others, by the mean score of their images."
    numbers = [asdict(attack) for attack in found]
    return Section("membership", lines, note, numbers, verdict=words.of_membership(found), table=words.membership_table(found))


def samples(audited: Audited) -> Section:
    """Nearest neighbours of the site's synthetic images."""
    if audited.folder is None or audited.run_id is None:
        raise UserError("samples: only a run directory of a simulation holds a site's latents; leave 'samples' out of --what")
    latents = SiteState(audited.folder / str(audited.site)).latest(audited.run_id)
    drawn = None
    if latents is not None:
        learner = build_site_learner(audited.config, parts.simulated(audited.config, audited.site), audited.site)
        learner.load_state(latents)
        drawn = learner.samples(SAMPLES)
    if drawn is None:
        none = Line("synthetic samples", None, None, "none: the method or the site has none")
        return Section("samples", [none], "", {}, verdict=words.Verdict("There are no synthetic images at this site to examine."))
    audited.tell(f"samples: nearest neighbours of {SAMPLES} synthetic images")
    held_out = audited.held_out()
    found = nearest_neighbours(drawn[0], audited.labelled, held_out, audited.seed)
    share = found.nearer
    interval = f"[{100 * share.low:.1f}, {100 * share.high:.1f}]"
    success = f"{100 * share.value:.1f} % {interval} nearer to a training image (p {found.p_value:.3f})"
    note = (
        "Nearest images among the site's own and as many that no site had; 50 % where samples give nothing away. Samples stay "
        "at the site: this is what they would give away if they left."
    )
    shown = [drawn[0][i] if drawn[0].shape[1] == 1 else drawn[0][i].mean(0, keepdim=True) for i, _ in found.closest]
    return Section(
        "samples",
        [Line("nearest neighbours of synthetic samples", None, None, success)],
        note,
        asdict(found),
        {"the synthetic images nearest to a training image": picture(shown)},
        words.of_samples(found),
        words.samples_table(found),
    )


def inversion(audited: Audited) -> Section:
    """Rebuild one image from a plain and from a private update, and from a masked one where the run sums updates under masks."""
    config = audited.private
    plan, classifier = plan_for(config), parts.initial_classifier(config)
    views = Views(audited.flip, classifier.size)
    image = audited.labelled.take([int(numpy_rng(audited.seed, "inversion").integers(len(audited.labelled)))])
    shown = views.plain(image.floats(classifier.head.weight.device))[0]
    secure = config.federation.aggregation == "secure"
    more = ", on a private one and on a masked one" if secure else ", as many on a private one"
    audited.tell(f"inversion: {audited.iterations} iterations on a plain update{more}")
    seen = Images(((shown[None].cpu() + 1) * 127.5).round().to(torch.uint8), image.y, image.subjects)
    label, seed = int(image.y[0]), audited.seed
    update = exact_gradient(classifier, seen, loss_weights(config.method.loss_weights, classifier))
    plain = invert(classifier, update, shown, label, audited.iterations, seed)
    released = releases_of(audited, plan, seen, classifier).supervised_gradient(classifier.theta())
    private = invert(classifier, released, shown, label, audited.iterations, seed)
    found = {"plain": plain, f"private, sigma {plan.alone().sigma_gradient:.3g}": private}
    masked = None
    if secure:
        sent = as_seen(config, released if audited.config.privacy.on else update)
        masked = found["masked"] = invert(classifier, sent, shown, label, audited.iterations, seed)
    lines = [
        Line(f"gradient inversion, {name} update of one image", None, None, f"correlation with the image {f.similarity:.2f}")
        for name, f in found.items()
    ]
    note = (
        "The first update of a site with a single image, label known: the easiest case for the attacker. Matching gradients by "
        "cosine (arXiv 2003.14053)."
    )
    if secure:
        note += " " + words.MASKED
    numbers = {name: {"similarity": f.similarity, "gradient_similarity": f.gradient_similarity} for name, f in found.items()}
    rebuilt = ", ".join(f"rebuilt from the {name.partition(',')[0]} update" for name in found)
    caption = f"From the left: the image, {rebuilt}."
    pictures = {caption: picture([shown, *(one.picture for one in found.values())])}
    verdict = words.of_inversion(str(audited.config.privacy.scope), plain, private, masked)
    return Section("inversion", lines, note, numbers, pictures, verdict, words.inversion_table(found))
