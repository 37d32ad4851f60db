"""Peak resident memory of a piece of work, above the level just before it (Linux: VmHWM, reset through clear_refs)."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from time import process_time

STATUS = Path("/proc/self/status")


def _mib(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None, f"{STATUS} has no {field}"
    return int(found[1]) / 1024


def cost(work: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """Return (CPU seconds, the least of ``repeats``; peak MiB above the start, of one run after a warm-up)."""
    work()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _mib("VmRSS")
    work()
    peak = _mib("VmHWM") - before
    seconds = []
    for _ in range(repeats):
        start = process_time()
        work()
        seconds.append(process_time() - start)
    return min(seconds), peak


def in_turn(works: Mapping[str, Callable[[], object]], turns: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Return :func:`cost` of each of ``works``, the least of ``turns``: turn about, so that a busy machine slows none alone."""
    found: dict[str, tuple[float, float]] = {}
    for _ in range(turns):
        for name, work in works.items():
            seconds, peak = cost(work, repeats)
            known = found.get(name, (seconds, peak))
            found[name] = min(known[0], seconds), min(known[1], peak)
    return found
