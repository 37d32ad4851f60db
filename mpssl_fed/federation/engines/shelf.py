"""Shared memory between a worker process and the one that forked it, for what either hands to the other."""

from __future__ import annotations

import mmap
import pickle
from typing import Any

PLACE = 64 * 2**20
"""Bytes in one place, at most; what is larger goes through the pipe. Pages that nobody writes take no memory."""

LARGE = 2**16
"""Bytes of a pickle that is laid down too: a pipe holds no more, so that whoever sends it waits for the other to read."""

Parcel = tuple[bytes, int, list[int]]
"""A pickle, empty where it lies first in shared memory; where that begins, and the sizes in bytes of what lies there."""


class Shelf:
    """As many things as ``places``, of at most ``size`` bytes each: an array is copied twice, where a pipe copies it five times.

    Made before the fork; one process puts, another takes, in order. While no place is free the pipe carries all.
    """

    def __init__(self, places: int, size: int = PLACE) -> None:
        self._places, self._size, self._put = places, size, 0
        try:
            self._memory: mmap.mmap | None = mmap.mmap(-1, places * size)
            self._taken = memoryview(mmap.mmap(-1, 8)).cast("Q")  # how many, as whoever takes writes it
        except OSError:  # a machine that promises no more memory than it has
            self._memory = None

    def put(self, what: Any) -> Parcel:
        """Lay down what is large of ``what`` and return the rest."""
        found: list[pickle.PickleBuffer] = []
        data = pickle.dumps(what, protocol=5, buffer_callback=found.append)
        raw = [buffer.raw() for buffer in found]
        if len(data) > LARGE:
            raw, data = [memoryview(data), *raw], b""
        if not raw:
            return data, 0, []
        room = self._memory is not None and self._put - self._taken[0] < self._places
        if self._memory is None or not room or sum(part.nbytes for part in raw) > self._size:
            return pickle.dumps(what, protocol=5), 0, []
        begin = at = self._put % self._places * self._size
        self._put += 1
        for part in raw:
            self._memory[at : at + part.nbytes] = part
            at += part.nbytes
        return data, begin, [part.nbytes for part in raw]

    def take(self, parcel: Parcel) -> Any:
        """Return what was put, in memory of its own."""
        data, at, sizes = parcel
        if not sizes:
            return pickle.loads(data)
        assert self._memory is not None
        parts = []
        with memoryview(self._memory) as memory:
            for size in sizes:
                parts.append(bytearray(memory[at : at + size]))
                at += size
        self._taken[0] += 1
        return pickle.loads(data or parts.pop(0), buffers=parts)


CONTENT = 8 * 2**20
"""Bytes of a message that a worker is sent by shared memory; its pages stay in use as long as the worker."""


class Shelves:
    """Those between the server and one worker: contents that come, one at a time, and answers that go."""

    def __init__(self, ahead: int) -> None:
        self.contents, self.answers = Shelf(1, CONTENT), Shelf(ahead)
