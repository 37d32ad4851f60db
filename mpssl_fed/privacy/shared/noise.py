"""Noise that sites share: each adds a part of it to integers of which only the sum over sites is ever seen.

A site rounds its clipped gradient sum to a public grid, adds what is public, rounded for itself, and a rounded Gaussian of standard
deviation s, in grid units; all that comes after is masks, which cancel, and addition modulo 2^64. With h honest sites in an opened
sum its noise has the variance of h of them, whatever the others did. The argument, in grid units:

- Rounding moves each coordinate by at most 1/2, and clipping a coordinate to a bound moves two sums no further apart, so that one
  unit more or less moves the integers by at most Delta = C / grid + sqrt(d) in L2. What is public is not in that: were it added
  before, a server that makes it huge would have float64 round the private sum a first time, by up to 1/4 more at each end.
- The sum of h independent N(0, s^2), each rounded, is within a total distance of 1 / (120 h s^4) a coordinate of the discrete
  Gaussian of variance h (s^2 + 1/12); it is priced at h s^2, which is less.
- The discrete Gaussian, Poisson-subsampled, has at each whole order at most the Renyi divergence of the continuous one for a shift
  by an integer vector of the same length (a lattice shift leaves the sums of its moments unchanged; Canonne, Kamath and Steinke,
  arXiv 2004.00010). So it is priced by Renyi divergence at whole orders alone, never by numerical composition.
- The total distances of all steps add up to at most T d / (120 h s^4), which costs (1 + e^epsilon) times that of delta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.privacy.noise import Noise

LEAST_STD = 2.0**22
"""s before the rounding of sums is added to the sensitivity: from here to twice as much, by the choice of the grid."""
MOST_STD = 2.0**24
MOST_COORDINATE = 2.0**52
"""A coordinate is clipped to it before the noise, exact in float64; 2^28 times the noise, so that in use nothing is clipped."""
MOST_PARAMETERS = 2.0**31
"""d of the largest model; what rounding costs is bounded by it."""
EXPOSED = 2.0**-40
"""The chance in an exchange of keys that a graph of few neighbours shows parts of a sum (:mod:`mpssl_fed.secure.graph`)."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class SharedNoise:
    """A release whose noise sites share. sigma: noise multiplier of the sum of ``honest`` sites; clip: C, the L2 bound of a unit.

    Every field is public and the same at all sites.
    """

    sigma: float
    clip: float
    honest: int

    def __post_init__(self) -> None:
        if self.honest < 1:
            raise ValueError(f"honest={self.honest}: want 1 or more")

    @property
    def sigma_of_a_site(self) -> float:
        """The noise multiplier of what one site adds."""
        return self.sigma / math.sqrt(self.honest)

    @property
    def grid(self) -> float:
        """The size of one integer, a power of two: s lies in [2^22, 2^23) before rounding is added to the sensitivity."""
        exact = self.sigma * self.clip / math.sqrt(self.honest) / LEAST_STD
        return math.ldexp(1.0, math.frexp(exact)[1] - 1)

    def std(self, parameters: int) -> float:
        """Return s, the standard deviation in grid units that one site adds, for vectors of ``parameters`` coordinates.

        ValueError where it is 2^24 or more: so much noise has no use.
        """
        s = self.sigma_of_a_site * (self.clip / self.grid + math.sqrt(parameters))
        if s >= MOST_STD:
            raise ValueError(f"a site's noise of {s:g} grid units is beyond 2^24: sigma={self.sigma:g} is too large")
        return s

    def integers(self, total: NDArray[np.float64]) -> Integers:
        """Return the float64 ``total`` [d] as integers, multiples of :attr:`grid`. ValueError where it is not finite."""
        if not np.isfinite(total).all():
            raise ValueError("the sum to be shared is not finite")
        return np.rint(np.clip(total / self.grid, -MOST_COORDINATE, MOST_COORDINATE)).astype(np.int64)

    def part(self, total: NDArray[np.float64], noise: Noise, public: NDArray[np.float64] | None = None) -> Integers:
        """Return the integers of ``total``, those of what is ``public`` [d] and this site's part of the noise, which comes last."""
        whole = self.integers(total)
        if public is not None:
            whole += self.integers(public)
        return noise.add_integers(whole, self.std(total.size))

    def answer(self, total: NDArray[np.float64], denominator: float, noise: Noise) -> NDArray[np.float64]:
        """Return :meth:`part` in units of the model over ``denominator``: what a sum of this site alone says."""
        return self.part(total, noise).astype(np.float64) * (self.grid / denominator)


def rounding_distance(steps: int, honest: int) -> float:
    """Return the bound of the total distance that rounding the noise of ``steps`` releases makes, over all coordinates."""
    return steps * MOST_PARAMETERS / (120 * honest * LEAST_STD**4)
