"""Weighted updates as integers modulo 2^64 and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.secure.keys import BLOCK, Integers
from mpssl_fed.secure.terms import Terms

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The integers of one epoch of ``sites`` under solved ``terms``."""

    terms: Terms
    sites: int

    @property
    def scale(self) -> float:
        """2^f."""
        return float(2.0 ** self.terms.grid_bits(self.sites))

    def to_integers(self, update: Floats, weight: int) -> tuple[Integers, int]:
        """Return round(w u 2^f) modulo 2^64 with w as one more coordinate, and how many coordinates were clipped to the range.

        update: [d], finite; weight: 1 to ``terms.largest_weight``, 1 where the terms weigh all alike; ValueError else.
        """
        most = self.terms.largest_weight if self.terms.weighted else 1
        if not 1 <= weight <= most:
            raise ValueError(f"weight {weight}; want 1 to {most}")
        whole, clipped = np.empty(len(update) + 1, dtype=np.int64), 0
        for start in range(0, len(update), BLOCK):
            part = update[start : start + BLOCK]
            if not np.isfinite(part).all():
                raise ValueError("an update that is not finite")
            clipped += int(np.count_nonzero(np.abs(part) > self.terms.range))
            within = np.clip(part.astype(np.float64), -self.terms.range, self.terms.range)
            exact = within * self.scale  # a power of two
            floor = np.floor(exact)
            rounded = np.rint(weight * (exact - floor)).astype(np.int64)  # one rounding, not two
            np.add(weight * floor.astype(np.int64), rounded, out=whole[start : start + len(part)])
        whole[-1] = weight
        return whole.view(np.uint64), clipped

    def mean(self, total: Integers) -> tuple[Floats, int] | None:
        """Return the weighted mean update [d] of an opened sum and the weights' sum; None where those weigh nothing."""
        signed = total.view(np.int64)
        weight = int(signed[-1])
        if weight <= 0:
            return None
        return signed[:-1].astype(np.float64) / (self.scale * weight), weight
