"""What can be told from releases and from a run of them, as sections of the report."""

from __future__ import annotations

from dataclasses import asdict, replace

from mpssl_fed.audit.audited import Audited, releases_of
from mpssl_fed.audit.canary import audit_config, audit_run
from mpssl_fed.audit.mechanism import CONFIDENCE, audit_release
from mpssl_fed.audit.report import Line, Section
from mpssl_fed.federation import parts
from mpssl_fed.method.parts import Parts
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.plan import plan_for

KINDS: tuple[Kind, ...] = ("gradient", "meta", "feature", "confusion")


def mechanism(audited: Audited) -> Section:
    """Many trials on each release function, at the run's sigma and q 1, where they prove most."""
    private = releases_of(audited, plan_for(audited.private))
    plan = plan_for(audited.private).alone()  # an attacker to whom all other sites give what they hold
    lines, numbers = [], []
    for release in plan.releases():
        kind = release.mechanism.kind
        if kind not in KINDS:
            continue
        audited.tell(f"mechanism: {audited.trials} trials of release {kind}")
        claimed = accounting.epsilon({plan.key(replace(release.mechanism, q=1.0)): 1}, plan.delta)
        found = audit_release(private, kind, claimed, plan.delta, trials=audited.trials)
        lines.append(
            Line(
                f"one release of the {kind}, sigma {release.mechanism.sigma:.3g}, whole data set",
                claimed,
                found.lower_bound,
                f"noise std {found.noise_ratio:.4f} of what is claimed",
                not found.passed,
            )
        )
        numbers.append(asdict(found))
    note = (
        f"The release's own clip, noise and denominator on one image or none, many times; Clopper-Pearson, {100 * CONFIDENCE:g} %. "
        "A claim of the run is composed of many such releases."
    )
    return Section("mechanism", lines, note, numbers)


def canary(audited: Audited) -> Section:
    """One run with canaries among the units, at epsilon 1, where one run can contradict a claim."""
    config = audit_config(audited.config)
    audited.tell(f"canary: a run with {audited.canaries} canaries at epsilon 1")
    site = Parts(audited.labelled, parts.initial_classifier(config), parts.generator(config), audited.flip)
    found = audit_run(config, site, audited.canaries, audited.seed)
    lines = [Line(f"one run with canaries, scope {found.scope}, all reads", found.claimed, found.lower_bound, "", not found.passed)]
    lines += [
        Line(f"  read '{kind}' alone", found.claimed, bound, "", bound > found.claimed) for kind, bound in found.reads.items()
    ]
    note = (
        "The method's own steps on this site's images and canaries, each in with probability 1/2; the attacker sees every answer "
        "of the reads (arXiv 2305.08846, 2410.22235; 95 %). Under scope labelled-step the claim covers the gradient alone: "
        "what latent meta-optimisation reads exactly shows as 'meta' and 'feature'."
    )
    return Section("canary", lines, note, asdict(found))
