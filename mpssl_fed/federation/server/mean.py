"""A weighted mean of replies that is taken as they come: nothing but sums is held, and their order does not matter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BLOCK = 16384
"""Entries at a time: what is worked on stays in a processor's second cache."""

ROOM = 8
"""Binary logarithm of how many replies like the first are added before a sum is put aside."""

WAITING_BYTES = 4 * 2**20
"""Of replies that are added together: what one finds in a processor's caches after a site has trained there is not its sums."""

MOST_WEIGHT = 1 << 29
"""A float32 times a whole number below it has the 53 bits of a float64."""


class RunningMean:
    """Sums of weight x vector [size], in twice the digits of float64.

    A float32 times a whole weight is a whole number of units, but for the few entries near 0, and so many of these numbers add up
    in a float64 without a bit lost. What is left of those few, and all where there is no such unit, goes through Knuth's two-sum:
    what an addition rounds away is kept beside the sum. So the sums have about 100 bits, and replies that come in another order,
    or summed up in parts, lead to the same mean: those of worker processes and of real sites come as they are done.
    """

    def __init__(self, size: int) -> None:
        self._whole, self._sum, self._rest = np.zeros(size), np.zeros(size), np.zeros(size)
        self._starts = range(0, size, BLOCK)
        self._unit, self._room = [0.0] * len(self._starts), [0.0] * len(self._starts)  # of each block; room: what may be added yet
        self._work = np.empty((4, min(size, BLOCK)))  # no new memory for each reply
        self._size, self._near = np.empty(min(size, BLOCK), dtype=np.float32), np.empty(min(size, BLOCK), dtype=bool)
        self._waiting: list[tuple[np.ndarray, float]] = []
        self.total = 0.0

    def add(self, vector: np.ndarray, weight: float) -> None:
        """Take in ``vector`` [size], finite, float32 or float64, with ``weight`` > 0. Nobody may change it from now on."""
        self._waiting.append((vector, weight))
        self.total += weight
        if len(self._waiting) * vector.nbytes >= WAITING_BYTES:
            self._add_all()

    def merge(self, parts: Sequence[np.ndarray], total: float) -> None:
        """Take in what :meth:`parts` of another returned, of the weight ``total``."""
        summed, rest = parts
        for start in self._starts:
            self._add_two_sum(start, summed[start : start + BLOCK], 1.0)
        self._rest += rest
        self.total += total

    def parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return two float64 vectors [size] that add up to the sum."""
        self._add_all()
        for block in range(len(self._starts)):
            self._put_aside(block)
        return self._sum, self._rest

    def mean(self) -> np.ndarray:
        """Return the mean [size] of at least one reply."""
        total, rest = self.parts()
        return np.asarray((total + rest) / self.total)

    def _add_all(self) -> None:
        for block, start in enumerate(self._starts):
            for vector, weight in self._waiting:
                part = vector[start : start + BLOCK]
                whole = vector.dtype == np.float32 and weight == int(weight) and 1 <= weight < MOST_WEIGHT
                if not (whole and self._add_whole(block, part, weight)):
                    self._add_two_sum(start, part, weight)
        self._waiting.clear()

    def _add_whole(self, block: int, part: np.ndarray, weight: float) -> bool:
        """Add a float32 ``part`` as whole numbers; say whether that could be done."""
        start, size, near = self._starts[block], self._size[: len(part)], self._near[: len(part)]
        largest = float(np.abs(part, out=size).max()) * weight
        if largest > self._room[block]:
            self._put_aside(block)
            if not 0 < largest < 2.0**100:
                return largest == 0
            exponent = math.frexp(largest)[1]
            self._unit[block], self._room[block] = math.ldexp(1.0, exponent + ROOM - 53), math.ldexp(1.0, exponent + ROOM)
        unit = self._unit[block]
        where = np.flatnonzero(np.less(size, unit * 2.0**23, out=near))  # a float32 of 2^23 units or more is a whole number of them
        if len(where) > len(part) // 4:
            return False
        product, whole = self._work[0, : len(part)], self._whole[start : start + len(part)]
        np.multiply(part, weight, out=product, dtype=np.float64)
        if len(where):
            small = product[where]
            rounded = small + 1.5 * 2.0**52 * unit - 1.5 * 2.0**52 * unit
            product[where] = rounded
            self._add_few(start + where, small - rounded)
        np.add(whole, product, out=whole)
        self._room[block] -= largest
        return True

    def _put_aside(self, block: int) -> None:
        start, self._unit[block], self._room[block] = self._starts[block], 0.0, 0.0
        whole = self._whole[start : start + BLOCK]
        self._add_two_sum(start, whole, 1.0)
        whole[:] = 0

    def _add_few(self, where: np.ndarray, values: np.ndarray) -> None:
        before = self._sum[where]
        after = before + values
        counted = after - before
        self._rest[where] += (before - (after - counted)) + (values - counted)
        self._sum[where] = after

    def _add_two_sum(self, start: int, part: np.ndarray, weight: float) -> None:
        total, rest = self._sum[start : start + len(part)], self._rest[start : start + len(part)]
        product, counted, new, lost = self._work[:, : len(part)]
        np.multiply(part, weight, out=product, dtype=np.float64)
        np.add(total, product, out=new)
        np.subtract(new, total, out=counted)
        np.subtract(product, counted, out=product)
        np.subtract(new, counted, out=lost)
        np.subtract(total, lost, out=lost)
        np.add(lost, product, out=lost)  # (total - (new - counted)) + (product - counted)
        np.add(rest, lost, out=rest)
        total[:] = new
