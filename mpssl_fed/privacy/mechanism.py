"""The numbers behind a release: what one unit can move, how much noise hides it, by what public number it is divided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpssl_fed.config.federation import CLIP_RANGE
from mpssl_fed.privacy.noise import Noise

Kind = Literal["gradient", "meta", "feature", "pseudo-label", "confusion"]
"""(a) supervised gradient, (b) validation gradient, (c) mean feature; (d) once a run of P-SSL, the foundation probabilities; (e)
the confusion counts of the global model on what a site holds out."""

Charge = Callable[[Kind, float, float], None]
"""(kind, sigma, q): called before each private read; it raises where the release was not reserved."""


@dataclass(frozen=True)
class Mechanism:
    """A Poisson-subsampled Gaussian: (sum of clipped units + N(0, std^2)) / denominator.

    sensitivity: what one unit more or less moves the sum by, in L2; sigma: std / sensitivity; denominator: q x public size
    of what is read, or 1 where counts are released.
    """

    kind: Kind
    sigma: float
    sensitivity: float
    q: float
    denominator: float

    def __post_init__(self) -> None:
        require_clip("sensitivity", self.sensitivity)

    @property
    def std(self) -> float:
        """Standard deviation of the noise on each coordinate of the sum."""
        return self.sigma * self.sensitivity

    @property
    def relative_noise(self) -> float:
        """The noise std of a coordinate of the answer, in units of the clip bound."""
        return self.sigma / self.denominator

    def answer(self, total: NDArray[np.float64], noise: Noise) -> NDArray[np.float64]:
        """Return the release of the clipped sum ``total``, any shape."""
        return noise.add(total, self.std) / self.denominator


@dataclass(frozen=True)
class Answer:
    """What one release answered, a tensor a part, and the mechanism (sensitivity, sigma, q) that answered it."""

    values: list[Tensor]
    mechanism: Mechanism


def require_clip(name: str, value: float) -> None:
    """Raise ValueError for a clip bound outside CLIP_RANGE."""
    least, most = CLIP_RANGE
    if not least <= value <= most:
        raise ValueError(f"{name}={value}: want a number from {least:g} to {most:g}")
