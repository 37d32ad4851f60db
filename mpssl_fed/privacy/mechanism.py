"""The numbers behind a release: what one unit can move, how much noise hides it, by what public number it is divided."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpssl_fed.config.federation import CLIP_RANGE
from mpssl_fed.privacy.noise import Noise
from mpssl_fed.privacy.per_unit import Backend, Unit

Kind = Literal["gradient", "meta", "feature", "pseudo-label"]
"""(a) supervised gradient, (b) validation gradient, (c) mean feature; once a run of P-SSL, the foundation probabilities."""

Charge = Callable[[Kind, float, float], None]
"""(kind, sigma, q): called before each private read; it raises where the release was not reserved."""


@dataclass(frozen=True)
class ReleaseSettings:
    """All public numbers of the releases; none may be derived from the data.

    sigma_KIND: noise multiplier, the noise's standard deviation over the clip bound, None where the release is not planned;
    clip_KIND: L2 bound of a unit, within CLIP_RANGE (1 for probabilities); q: chance of a unit to be in a draw; public_size: the
    number of units the owner declares; meta_params: where (b) lives, ``norm`` for the body's GroupNorm scales and shifts or ``all``
    of the body; per_class: (c) as one mean a class instead of one for all; count_floor: floor of (c)'s noisy count, as a share
    of its expectation; max_physical_batch: images in memory at once.
    """

    sigma_gradient: float
    clip_gradient: float
    clip_meta: float
    clip_feature: float
    q: float
    public_size: int
    sigma_meta: float | None = None
    sigma_feature: float | None = None
    sigma_pseudo_label: float | None = None
    meta_params: Literal["norm", "all"] = "norm"
    per_class: bool = False
    count_floor: float = 0.1
    max_physical_batch: int = 32
    backend: Backend = "vmap"
    unit: Unit = "image"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("sigma_") and value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field.name}={value}: want a positive, finite number")
            if field.name.startswith("clip_"):
                _require_clip(field.name, value)
        if not 0 < self.q <= 1:
            raise ValueError(f"q={self.q}: want 0 < q <= 1")
        if self.public_size < 1 or self.max_physical_batch < 1:
            raise ValueError(f"public_size={self.public_size}, max_physical_batch={self.max_physical_batch}: want 1 or more")

    @property
    def usual_draw(self) -> int:
        """Units that most draws do not exceed, a multiple of 4: the size of calls that take several at once. 1 where so few are
        drawn that each alone is quicker than a call that is filled up."""
        expected = self.q * self.public_size
        return 1 if expected <= 3 else 4 * math.ceil((expected + math.sqrt(expected)) / 4)

    def mechanism(self, kind: Kind) -> Mechanism:
        """Return the mechanism of one release. RuntimeError where it is not planned."""
        sigma, clip, q = {
            "gradient": (self.sigma_gradient, self.clip_gradient, self.q),
            "meta": (self.sigma_meta, self.clip_meta, self.q),
            "feature": (self.sigma_feature, self.clip_feature, self.q),
            "pseudo-label": (self.sigma_pseudo_label, 1.0, 1.0),
        }[kind]
        if sigma is None:
            raise RuntimeError(f"release '{kind}' is not in the plan of this run")
        return Mechanism(kind, sigma, clip, q, q * self.public_size)


@dataclass(frozen=True)
class Mechanism:
    """A Poisson-subsampled Gaussian: (sum of clipped units + N(0, std^2)) / denominator.

    sensitivity: what one unit more or less moves the sum by, in L2; sigma: std / sensitivity; denominator: q x public size.
    """

    kind: Kind
    sigma: float
    sensitivity: float
    q: float
    denominator: float

    def __post_init__(self) -> None:
        _require_clip("sensitivity", self.sensitivity)

    @property
    def std(self) -> float:
        """Standard deviation of the noise on each coordinate of the sum."""
        return self.sigma * self.sensitivity

    def answer(self, total: NDArray[np.float64], noise: Noise) -> NDArray[np.float64]:
        """Return the release of the clipped sum ``total``, any shape."""
        return noise.add(total, self.std) / self.denominator


@dataclass(frozen=True)
class Answer:
    """What one release answered, a tensor a part, and the mechanism (sensitivity, sigma, q) that answered it."""

    values: list[Tensor]
    mechanism: Mechanism


def _require_clip(name: str, value: float) -> None:
    least, most = CLIP_RANGE
    if not least <= value <= most:
        raise ValueError(f"{name}={value}: want a number from {least:g} to {most:g}")
