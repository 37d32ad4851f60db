"""A weighted mean of replies that is taken as they come: nothing but sums is held, and their order does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class RunningMean:
    """Sums of size x weights in twice the digits of float64, for each of ``keys``.

    What an addition rounds away is kept beside the sum, exactly (Knuth's two-sum). So the sums have about 100 bits, and replies
    that come in another order lead to the same mean: those of worker processes and of real sites come as they are done.
    """

    def __init__(self, like: Mapping[str, np.ndarray]) -> None:
        self._sums = {key: np.zeros(value.shape) for key, value in like.items()}
        self._rests = {key: np.zeros(value.shape) for key, value in like.items()}
        self.total = 0.0

    def add(self, weights: Mapping[str, Any], size: float) -> None:
        """Take in ``weights``, float64 arrays shaped like the sums, with the weight ``size``."""
        for key, total in self._sums.items():
            product = size * weights[key]
            new = total + product
            counted = new - total
            self._rests[key] += (total - (new - counted)) + (product - counted)
            self._sums[key] = new
        self.total += size

    def mean(self) -> dict[str, np.ndarray]:
        """Return the mean by key, float64, of at least one reply."""
        return {key: np.asarray((total + self._rests[key]) / self.total) for key, total in self._sums.items()}
