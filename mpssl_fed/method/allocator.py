"""Memory that a training step frees: kept for the next step, and given back when the work is over."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""

KEPT, APART = 512 * 2**20, 32 * 2**20
"""Bytes that are free at the heap's end before some go back to the system; bytes from which a piece of memory is mapped apart and
goes back at once (the most that glibc itself would come to)."""

OF_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> None:
    """Let this process keep up to KEPT bytes that it has freed. Nothing is done without glibc, nor where the user has set its own.

    glibc hands back what is free at the heap's end beyond 64 MiB at most. A step that works in more, as latent meta-optimisation
    does, then pays for the same pages again each time, a tenth of its seconds on a CPU.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in OF_THE_USER):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_TRIM_THRESHOLD, KEPT)
            mallopt(M_MMAP_THRESHOLD, APART)


def give_back_memory() -> None:
    """Hand what this process has freed back to the system: nothing more is to be done for a while."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
