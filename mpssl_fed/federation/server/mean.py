"""A weighted mean of replies that is taken as they come: nothing but sums is held, and their order does not matter."""

from __future__ import annotations

import numpy as np


class RunningMean:
    """Sums of weight x vector [size], in twice the digits of float64.

    What an addition rounds away is kept beside the sum, exactly (Knuth's two-sum). So the sums have about 100 bits, and replies
    that come in another order lead to the same mean: those of worker processes and of real sites come as they are done.
    """

    def __init__(self, size: int) -> None:
        self._sum, self._rest = np.zeros(size), np.zeros(size)
        self._product, self._counted, self._new = np.empty(size), np.empty(size), np.empty(size)  # no new memory for each reply
        self.total = 0.0

    def add(self, vector: np.ndarray, weight: float) -> None:
        """Take in ``vector`` [size], float64, with ``weight``."""
        total, product, counted, new = self._sum, self._product, self._counted, self._new
        np.multiply(vector, weight, out=product)
        np.add(total, product, out=new)
        np.subtract(new, total, out=counted)
        np.subtract(product, counted, out=product)
        np.subtract(new, counted, out=counted)
        np.subtract(total, counted, out=counted)
        np.add(counted, product, out=counted)  # (total - (new - counted)) + (product - counted)
        np.add(self._rest, counted, out=self._rest)
        self._sum, self._new = new, total
        self.total += weight

    def mean(self) -> np.ndarray:
        """Return the mean [size] of at least one reply."""
        return np.asarray((self._sum + self._rest) / self.total)
