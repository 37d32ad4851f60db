"""Shared memory through which a worker process hands its answers to the one that forked it."""

from __future__ import annotations

import mmap
import pickle
from typing import Any

PLACE = 64 * 2**20
"""Bytes of arrays in one answer, at most; a larger one goes through the pipe. Pages that nobody writes take no memory."""

Parcel = tuple[bytes, int, list[int]]
"""A pickle, where its arrays begin in shared memory, and their sizes in bytes; no sizes where it holds all."""


class Shelf:
    """As many answers' arrays as ``places``, one after the other: an array is copied twice, where a pipe copies it five times.

    Made before the fork. Whoever puts waits for the answer before the last ``places`` to be taken.
    """

    def __init__(self, places: int) -> None:
        self._places, self._put = places, 0
        try:
            self._memory: mmap.mmap | None = mmap.mmap(-1, places * PLACE)
        except OSError:  # a machine that promises no more memory than it has
            self._memory = None

    def put(self, what: Any) -> Parcel:
        """Lay down the arrays of ``what`` and return the rest."""
        found: list[pickle.PickleBuffer] = []
        data = pickle.dumps(what, protocol=5, buffer_callback=found.append)
        raw = [buffer.raw() for buffer in found]
        if not raw:
            return data, 0, []
        if self._memory is None or sum(part.nbytes for part in raw) > PLACE:
            return pickle.dumps(what, protocol=5), 0, []
        begin = at = self._put % self._places * PLACE
        self._put += 1
        for part in raw:
            self._memory[at : at + part.nbytes] = part
            at += part.nbytes
        return data, begin, [part.nbytes for part in raw]

    def take(self, parcel: Parcel) -> Any:
        """Return what was put, in memory of its own."""
        data, at, sizes = parcel
        buffers = []
        for size in sizes:
            assert self._memory is not None
            buffers.append(bytearray(memoryview(self._memory)[at : at + size]))
            at += size
        return pickle.loads(data, buffers=buffers)
