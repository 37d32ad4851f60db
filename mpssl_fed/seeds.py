"""The seed tree: every public random stream of a run is a hash of (run seed, where, what for).

Nothing secret comes from here. Draws and noise under differential privacy use operating-system entropy, since a server
that knows the run seed could recompute them.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GLOBAL = threading.RLock()


def seed_of(run_seed: int, *path: str | int) -> int:
    """Return the 63-bit seed of one stream, e.g. ``seed_of(0, "site", 3, "round", 2, "augment")``.

    It is SHA-256 over the typed, length-prefixed path, so ``("a", "bc")`` and ``("ab", "c")`` differ, as do 1 and "1".
    """
    digest = hashlib.sha256()
    for part in (run_seed, *path):
        word = f"{type(part).__name__}:{part}".encode()
        digest.update(len(word).to_bytes(4, "big") + word)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def torch_rng(run_seed: int, *path: str | int) -> torch.Generator:
    """Return a CPU torch generator for the stream; CPU, so that a run draws the same numbers on every device."""
    return torch.Generator().manual_seed(seed_of(run_seed, *path))


def numpy_rng(run_seed: int, *path: str | int) -> np.random.Generator:
    """Return a numpy generator for the stream."""
    return np.random.default_rng(seed_of(run_seed, *path))


@contextmanager
def initialising(seed: int = 0) -> Iterator[None]:
    """Let torch's modules draw their initial weights from ``seed``, and leave the global stream, the only one they know, as it was.

    One thread at a time: two that build would draw from each other's seeds.
    """
    with _GLOBAL, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
