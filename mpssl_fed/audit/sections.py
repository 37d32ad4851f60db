"""The audits of one site, each as a section of the report. What they read is private: nothing here crosses a wire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpssl_fed.audit import words
from mpssl_fed.audit.canary import audit_config, audit_run
from mpssl_fed.audit.inversion import exact_gradient, invert
from mpssl_fed.audit.mechanism import CONFIDENCE, TRIALS, audit_release
from mpssl_fed.audit.membership import infer, shadow_trainer
from mpssl_fed.audit.memorisation import nearest_neighbours
from mpssl_fed.audit.report import Line, Section, picture
from mpssl_fed.audit.uncharged import Uncharged
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.site.site import build_site_learner
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.build import labelled_view, release_settings, speed_of
from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.noise import noise_source
from mpssl_fed.privacy.plan import Plan, plan_for
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.runs.manifest import now
from mpssl_fed.seeds import numpy_rng

SAMPLES = 256
SHADOW_STEPS = 300
KINDS: tuple[Kind, ...] = ("gradient", "meta", "feature")


@dataclass(frozen=True)
class Audited:
    """What is audited. run_id and folder (of the simulated sites' state) are None at a deployed site; trained is the released
    classifier, where there is one; most: images a side of the membership attack."""

    config: Config
    site: int
    seed: int = 0
    run_id: str | None = None
    folder: Path | None = None
    trained: Classifier | None = None
    canaries: int = 20_000
    trials: int = TRIALS
    shadows: int = 8
    iterations: int = 300
    most: int = 1000
    progress: Callable[[str], None] | None = None
    own: Images | None = None
    """A deployed site's own images; a simulation's are those of its data set."""
    source: str | None = None
    """Where a deployed site's own images lie."""

    def tell(self, text: str) -> None:
        """Show a line of progress, where someone watches."""
        if self.progress is not None:
            self.progress(text)

    @property
    def labelled(self) -> Images:
        """The site's images; UserError where it has none."""
        images = parts.labelled(self.config, self.site) if self.own is None else self.own
        if not len(images):
            raise UserError(f"site {self.site} holds no image to audit; choose another --site")
        return images

    @property
    def flip(self) -> bool:
        """Whether a mirrored image keeps its label."""
        return parts.task(self.config).flip

    @property
    def private(self) -> Config:
        """The config; where it has no privacy, the same method under an epsilon of 1."""
        return self.config if self.config.privacy.on else audit_config(self.config)

    def held_out(self) -> Images:
        """Return images that no site was given: of the training pool where some are left, else the test set."""
        data = parts.dataset(self.config)
        given = np.concatenate(parts.shares(self.config))
        left = np.setdiff1d(np.arange(len(data.train)), given)
        return data.train.take(left) if len(left) >= len(given) else data.test


def mechanism(audited: Audited) -> Section:
    """Many trials on each release function, at the run's sigma and q 1, where they prove most."""
    plan = plan_for(audited.private)
    lines, numbers = [], []
    private = _releases(audited, plan)
    for release in plan.releases():
        kind = release.mechanism.kind
        if kind not in KINDS:
            continue
        audited.tell(f"mechanism: {audited.trials} trials of release {kind}")
        claimed = accounting.epsilon({(release.mechanism.sigma, 1.0): 1}, plan.delta)
        found = audit_release(private, kind, private.classifier.theta(), claimed, plan.delta, trials=audited.trials)
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
    classifier = parts.initial_classifier(config)
    found = audit_run(config, classifier, parts.generator(config), audited.labelled, audited.flip, audited.canaries, audited.seed)
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


def membership(audited: Audited) -> Section:
    """Attacks on the released classifier: the loss, and LiRA with shadow models."""
    if audited.trained is None:
        raise UserError("membership: the run has no model.safetensors yet; let it finish, or leave 'membership' out of --what")
    config, rng = audited.config, numpy_rng(audited.seed, "membership")
    data = parts.dataset(config).train
    members = _some(data.take(np.sort(np.concatenate(parts.shares(config)))), audited.most, rng)
    others = _some(audited.held_out(), audited.most, rng)
    total = min(config.federation.rounds * config.federation.local_steps, SHADOW_STEPS)
    audited.tell(f"membership: {len(members)} members, {len(others)} others, {audited.shadows} shadow models of {total} steps")

    def told(k: int) -> None:
        audited.tell(f"membership: shadow {k + 1} of {audited.shadows}")

    def build() -> Classifier:
        return parts.initial_classifier(config)

    train = shadow_trainer(config, build, parts.generator(config), audited.flip, total, told) if audited.shadows else None
    found = infer(audited.trained, members, others, train, audited.shadows, audited.seed)
    claimed = plan_for(config).price() if config.privacy.on else None
    lines = []
    for attack in found:
        rates = ", ".join(
            f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}] found at {100 * false:g} % false"
            for false, rate in attack.true_positives.items()
        )
        area = attack.auroc
        success = f"AUROC {area.value:.3f} [{area.low:.3f}, {area.high:.3f}]; {rates}"
        lines.append(Line(f"membership by {attack.attack}", claimed, None, success))
    note = (
        "Who sees the published classifier tells its training images from others of the same source. Shadow models are trained at "
        f"one place on half of both, with the run's method and privacy, {total} steps. Fewer others than 1000 put the threshold of "
        "0.1 % above them all."
    )
    numbers = [asdict(attack) for attack in found]
    return Section("membership", lines, note, numbers, verdict=words.of_membership(found), table=words.membership_table(found))


def samples(audited: Audited) -> Section:
    """Nearest neighbours of the site's synthetic images."""
    if audited.folder is None or audited.run_id is None:
        raise UserError("samples: only a run directory of a simulation holds a site's latents; leave 'samples' out of --what")
    latents = SiteState(audited.folder / str(audited.site)).latest(audited.run_id)
    drawn = None
    if latents is not None:
        learner = build_site_learner(audited.config, parts.Parts.simulated(audited.config, audited.site), audited.site)
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
    """Rebuild one image from a plain and from a private update."""
    config = audited.private
    plan, classifier = plan_for(config), parts.initial_classifier(config)
    views = Views(audited.flip, classifier.size)
    image = audited.labelled.take([int(numpy_rng(audited.seed, "inversion").integers(len(audited.labelled)))])
    shown = views.plain(image.floats(classifier.head.weight.device))[0]
    audited.tell(f"inversion: {audited.iterations} iterations on a plain update, as many on a private one")
    seen = Images(((shown[None].cpu() + 1) * 127.5).round().to(torch.uint8), image.y)
    label, seed = int(image.y[0]), audited.seed
    plain = invert(classifier, exact_gradient(classifier, seen), shown, label, audited.iterations, seed)
    released = _releases(audited, plan, seen, classifier).supervised_gradient(classifier.theta())
    private = invert(classifier, released, shown, label, audited.iterations, seed)
    found = {"plain": plain, f"private, sigma {plan.sigma_gradient:.3g}": private}
    lines = [
        Line(f"gradient inversion, {name} update of one image", None, None, f"correlation with the image {f.similarity:.2f}")
        for name, f in found.items()
    ]
    note = (
        "The first update of a site with a single image, label known: the easiest case for the attacker. Matching gradients by "
        "cosine (arXiv 2003.14053)."
    )
    numbers = {name: {"similarity": f.similarity, "gradient_similarity": f.gradient_similarity} for name, f in found.items()}
    caption = "From the left: the image, rebuilt from the plain update, rebuilt from the private update."
    pictures = {caption: picture([shown, plain.picture, private.picture])}
    verdict = words.of_inversion(str(audited.config.privacy.scope), plain, private)
    return Section("inversion", lines, note, numbers, pictures, verdict, words.inversion_table(found))


AUDITS: dict[str, Callable[[Audited], Section]] = {
    "mechanism": mechanism,
    "canary": canary,
    "membership": membership,
    "samples": samples,
    "inversion": inversion,
}


def facts(audited: Audited) -> dict[str, Any]:
    """Return what the report says of the run at its top."""
    privacy = audited.config.privacy
    found: dict[str, Any] = {
        "date": now()[:16].replace("T", " ") + " UTC",
        "data": audited.source or audited.config.data.name,
        "images": len(audited.labelled),
        "run": audited.run_id or "-",
        "site": audited.site,
        "seed": audited.seed,
        "scope": privacy.scope,
    }
    if not privacy.on:
        return found | {"claimed epsilon": "none: scope off protects no image"}
    plan = plan_for(audited.config)
    covers = "" if plan.scope == "end-to-end" else " (of the labelled step alone)"
    return found | {"claimed epsilon": f"{plan.price():.3f} at delta {plan.delta:g} per {plan.unit}{covers}"}


def _releases(audited: Audited, plan: Plan, images: Images | None = None, model: Classifier | None = None) -> DPPrivateData:
    """Return the releases of a plan at q 1, charged nowhere, around a classifier of their own."""
    config = audited.private
    classifier = model or parts.initial_classifier(config)
    settings = release_settings(replace(plan, q=1.0), config.privacy)
    without_end = Uncharged({(one.sigma, 1.0): 10**9 for one in plan.mechanisms().values()})
    return DPPrivateData(
        classifier,
        audited.labelled if images is None else images,
        labelled_view(config.method.augment, audited.flip, classifier.size),
        Views(audited.flip, classifier.size).plain,
        settings,
        without_end,
        noise_source(config.privacy.noise),
        speed=speed_of(config.privacy),
    )


def _some(images: Images, most: int, rng: np.random.Generator) -> Images:
    return images.take(np.sort(rng.permutation(len(images))[:most]))
