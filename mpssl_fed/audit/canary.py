"""One-run audit of a whole training run: canaries among a site's units, each in with probability 1/2, and who was in.

A canary's vector in each read is a multiple of one coordinate, three clip bounds long. It passes the release's own draw, clip,
noise and denominator beside the real images, through the method's own steps. The attacker sees every answer of the reads:
whatever is sent follows from them, so she sees at least what a server does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpssl_fed.audit.one_run import epsilon_one_run, gaussian_epsilon, mu_one_run
from mpssl_fed.audit.uncharged import Uncharged
from mpssl_fed.config import Config
from mpssl_fed.config.load import from_mapping, override
from mpssl_fed.data.datasets import Images
from mpssl_fed.generators.base import Generator
from mpssl_fed.method.build import build_learner
from mpssl_fed.method.private_data import ExactPrivateData, FeatureMeans, PrivateData
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier, Params
from mpssl_fed.privacy import per_unit
from mpssl_fed.privacy.build import exact_beside, labelled_view, release_settings, speed_of
from mpssl_fed.privacy.mechanism import Answer, Kind
from mpssl_fed.privacy.noise import Noise, noise_source
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.releases import DPPrivateData, LabelledStepPrivateData

LENGTH = 3.0
"""A canary's vector before clipping, in clip bounds."""
CHUNK = 256
EXACT_STD = 1e-3
"""Noise that the score pretends an exact read to have, in clip bounds."""


@dataclass(frozen=True)
class CanaryAudit:
    """What one run gives away. claimed: epsilon of all accounted releases at delta; one_run, lower_bound: epsilons that the
    guesses prove with 95 % confidence, by arXiv 2305.08846 and by the Gaussian form of arXiv 2410.22235; ``reads``: the
    latter from each kind of read alone, where the method makes it."""

    scope: str
    canaries: int
    delta: float
    claimed: float
    one_run: float
    lower_bound: float
    reads: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether no read contradicts the claim."""
        return max(self.lower_bound, self.one_run, *self.reads.values()) <= self.claimed


@dataclass
class Seen:
    """All answers of one kind added up [d], how many, and what a canary (size) and the noise (std) do to a coordinate of one."""

    total: Tensor
    reads: int
    size: float
    std: float


@dataclass
class Canaries:
    """m canaries: who is in, the sign of each, and what the attacker has seen."""

    included: np.ndarray
    signs: Tensor
    seen: dict[str, Seen] = field(default_factory=dict)

    @classmethod
    def of(cls, m: int, rng: np.random.Generator) -> Canaries:
        """Return m canaries, each in with probability 1/2."""
        return cls(rng.random(m) < 0.5, torch.from_numpy(rng.choice([-1.0, 1.0], m)))

    def units(self) -> list[Tensor]:
        """Return those that are in as units: canary i is the image number -1 - i."""
        return [torch.tensor([-1 - i]) for i in np.flatnonzero(self.included).tolist()]

    def add_to(self, sums: list[Tensor], drawn: Tensor, bound: float | None) -> list[Tensor]:
        """Return ``sums`` plus the vectors of the canaries ``drawn`` [k], clipped by the release's own code unless bound is None.

        Canary i lies on coordinate i modulo the length of the sums put together.
        """
        flat = torch.cat([part.flatten() for part in sums])
        for some in drawn.split(CHUNK):
            rows = torch.diag(torch.full((len(some),), LENGTH * (bound or 1.0), dtype=flat.dtype))
            sizes = rows.sum(0) if bound is None else per_unit.clip_and_sum([rows], bound)[0]
            flat.index_add_(0, (some % len(flat)).to(flat.device), (sizes * self.signs[some]).to(flat))
        return [part.view(old.shape) for part, old in zip(flat.split([s.numel() for s in sums]), sums, strict=True)]

    def see(self, kind: str, answer: Tensor, size: float, std: float) -> None:
        """Note a sum in which a canary moves its coordinate by ``size`` and noise of ``std`` lies."""
        flat = answer.flatten().cpu().double()
        before = self.seen.get(kind, Seen(torch.zeros_like(flat), 0, size, std))
        self.seen[kind] = Seen(before.total + flat, before.reads + 1, size, std)

    def evidence(self, kind: str) -> Tensor:
        """Return the log-likelihood ratio of each canary [m], up to a constant, from all answers of a kind.

        Canaries that share a coordinate are noise to each other, the same in each answer.
        """
        seen = self.seen[kind]
        others = max(0.0, len(self.signs) / len(seen.total) - 1) / 4 * seen.size**2
        places = torch.arange(len(self.signs)) % len(seen.total)
        return self.signs * seen.total[places] * seen.size / (seen.std**2 + seen.reads * others)


class CanaryPrivateData(DPPrivateData):
    """The releases of differential privacy over real images and canaries."""

    def __init__(self, canaries: Canaries, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.canaries = canaries
        self.units = self.units + canaries.units()

    def gradient_sum(self, theta: Params, batch: Sequence[Tensor]) -> list[Tensor]:
        """Add the canaries' share to (a)."""
        return self._with(
            batch, self.settings.clip("gradient"), lambda real: super(CanaryPrivateData, self).gradient_sum(theta, real)
        )

    def meta_sum(self, theta_prime: Params, batch: Sequence[Tensor]) -> list[Tensor]:
        """Add the canaries' share to (b)."""
        return self._with(
            batch, self.settings.clip("meta"), lambda real: super(CanaryPrivateData, self).meta_sum(theta_prime, real)
        )

    def feature_sum(self, psi: Params, batch: Sequence[Tensor]) -> list[Tensor]:
        """Add the canaries' share to (c)."""
        return self._with(batch, self.settings.clip("feature"), lambda real: super(CanaryPrivateData, self).feature_sum(psi, real))

    def release(self, kind: Kind, total: Callable[[Sequence[Tensor]], list[Tensor]]) -> Answer:
        """Let the attacker see what comes out."""
        answer = super().release(kind, total)
        mechanism = answer.mechanism
        if kind != "pseudo-label":
            flat = torch.cat([part.flatten() for part in answer.values]).double() * mechanism.denominator
            self.canaries.see(kind, flat, mechanism.sensitivity, mechanism.std)
        return answer

    def _with(self, batch: Sequence[Tensor], bound: float, sums: Callable[[Sequence[Tensor]], list[Tensor]]) -> list[Tensor]:
        drawn = torch.tensor([-1 - int(unit[0]) for unit in batch if int(unit[0]) < 0], dtype=torch.int64)
        return self.canaries.add_to(sums([unit for unit in batch if int(unit[0]) >= 0]), drawn, bound)


class CanaryExactData(ExactPrivateData):
    """The exact reads of scope ``labelled-step``: a canary that is drawn into a batch weighs as much as an image."""

    def __init__(self, canaries: Canaries, rng: np.random.Generator, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.canaries, self._draws = canaries, rng

    def validation_gradient(self, theta_prime: Params) -> Params:
        """Return the exact v of a batch of images and canaries, and let the attacker, who knows the images, see it."""
        real = super().validation_gradient(theta_prime)
        mixed = self._mixed("meta", list(real.values()), self.batch_size)
        return dict(zip(real, mixed, strict=True))

    def mean_feature(self, psi: Params) -> FeatureMeans:
        """Return the exact means of such a batch."""
        real = super().mean_feature(psi)
        return replace(real, values=self._mixed("feature", [real.values], 4 * self.batch_size)[0])

    def _mixed(self, kind: str, means: list[Tensor], size: int) -> list[Tensor]:
        inside = np.flatnonzero(self.canaries.included)
        share = len(inside) / max(1, len(inside) + len(self.train[0]))
        drawn = self._draws.choice(inside, min(len(inside), self._draws.binomial(size, share)), replace=False)
        of_canaries = self.canaries.add_to([torch.zeros_like(part) for part in means], torch.from_numpy(drawn), None)
        self.canaries.see(kind, torch.cat([part.flatten() for part in of_canaries]), LENGTH, EXACT_STD)
        return [mean * (1 - len(drawn) / size) + part / size for mean, part in zip(means, of_canaries, strict=True)]


def audit_config(config: Config, epsilon: float = 1.0, steps: int = 10) -> Config:
    """Return ``config`` with a run short enough, and a claim small enough, for one run to contradict: q 1, LMO every step,
    and v on all of the body, where canaries have coordinates to themselves."""
    scope = config.privacy.scope if config.privacy.on else "end-to-end"
    delta = config.privacy.delta if config.privacy.on else 1e-5
    size = config.privacy.public_size or int(0.1 / delta)
    fields = override(
        config.dump(),
        [
            f"privacy.scope={scope}",
            f"privacy.epsilon={epsilon}",
            f"privacy.delta={delta}",
            f"privacy.public_size={size}",
            "privacy.sample_rate=1.0",
            "privacy.meta_params=all",
            "federation.rounds=1",
            f"federation.local_steps={steps}",
            "method.lmo_every=1",
        ],
    )
    return from_mapping(fields)


def audit_run(
    config: Config,
    classifier: Classifier,
    generator: Generator | None,
    labelled: Images,
    flip: bool,
    m: int = 20_000,
    seed: int = 0,
    noise: Noise | None = None,
) -> CanaryAudit:
    """Return the audit of one run of ``config`` (see :func:`audit_config`) at a site with these images and m canaries.

    seed: who is in; draws and noise are those of a real run, so two audits differ a little. ``classifier`` is trained.
    """
    plan, rng = plan_for(config), np.random.default_rng(seed)
    canaries, views = Canaries.of(m, rng), Views(flip, classifier.size)
    released = CanaryPrivateData(
        canaries,
        classifier,
        labelled,
        labelled_view(config.method.augment, flip, classifier.size),
        views.plain,
        release_settings(plan, config.privacy),
        Uncharged(plan.history()),
        noise or noise_source(config.privacy.noise),
        weights=config.privacy.class_weights,
        speed=speed_of(config.privacy),
    )
    private: PrivateData = released
    if plan.scope == "labelled-step":
        exact = exact_beside(config, classifier, labelled, views, partial(CanaryExactData, canaries, rng))
        private = LabelledStepPrivateData(released, exact)
    build_learner(config, classifier, generator, labelled, flip=flip, site=0, private=private).train(1)

    def bound(scores: Tensor) -> float:
        return gaussian_epsilon(mu_one_run(scores.numpy(), canaries.included), plan.delta)

    scores = {kind: canaries.evidence(kind) for kind in canaries.seen}
    together = torch.stack(list(scores.values())).sum(0)
    return CanaryAudit(
        plan.scope,
        m,
        plan.delta,
        plan.price(),
        epsilon_one_run(together.numpy(), canaries.included, plan.delta),
        bound(together),
        {kind: bound(found) for kind, found in scores.items()},
    )
