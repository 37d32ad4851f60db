"""The reads of a training step, released or exact, over real images and canaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpssl_fed.audit.canaries import LENGTH, Canaries
from mpssl_fed.method.private_data import ExactPrivateData, FeatureMeans
from mpssl_fed.models import Params
from mpssl_fed.privacy.mechanism import Answer, Kind
from mpssl_fed.privacy.releases import DPPrivateData

EXACT_STD = 1e-3
"""Noise that the score pretends an exact read to have, in clip bounds."""


class CanaryPrivateData(DPPrivateData):
    """The releases of differential privacy over real images and canaries; of shared noise, this site's part."""

    audited = True

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
        mechanism = self.settings.plan.alone().mechanisms()[kind]
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
