"""Freed memory stays with a process that trains, unless its user says otherwise, and goes back when the work is over."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PIECES = """
import ctypes, os, resource, sys
import numpy as np
from mpssl_fed.method.allocator import give_back_memory, keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    held = [np.ones(2**20) for _ in range(16)]  # 128 MiB in pieces of 8
    del held

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(3):
    work()
before = faults()
for _ in range(5):
    work()
again = faults() - before
kept = resident()
give_back_memory()
print(again, kept - resident())
"""

glibc = pytest.mark.skipif(not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="of glibc alone")


def told(how: str, **env: str) -> tuple[int, int]:
    """Return the page faults of five turns of the same work, and the bytes that went back to the system after them."""
    done = subprocess.run([sys.executable, "-c", PIECES, how], capture_output=True, text=True, check=True, env=os.environ | env)
    faults, back = map(int, done.stdout.split())
    return faults, back


@glibc
def test_the_same_work_pays_for_its_pages_once() -> None:
    kept, left_alone = told("keep"), told("")
    assert kept[0] < 1000
    assert left_alone[0] > 20 * 1000, "glibc alone hands 128 MiB back each time"
    assert kept[1] > 100 * 2**20, "it goes back when the work is over"


@glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_has_set_it_is_obeyed(name: str) -> None:
    value = "glibc.malloc.trim_threshold=131072" if name == "GLIBC_TUNABLES" else "131072"
    assert told("keep", **{name: value})[0] > 20 * 1000
