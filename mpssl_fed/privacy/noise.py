"""Poisson draws and Gaussian noise from operating-system entropy, never from the seed tree nor a ``torch.Generator``.

A server that could recompute a draw would void the amplification by sampling; one that could recompute the noise would
read the sum beneath it. (A CPU ``torch.Generator`` keeps 32 bits of its seed.)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY_BYTES = 32
GRID_BITS = 20
PAIRS = 1 << 15
"""Normals are made in blocks of this many pairs, so that every buffer stays in the cache."""

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


class Noise(Protocol):
    """Where draws and noise come from. ``secure`` says whether a deployed site may use it."""

    secure: bool

    def draw(self, units: int, q: float) -> NDArray[np.int64]:
        """Return the sorted indices, out of ``units``, of one Poisson draw with rate ``q``; it may be empty."""
        ...

    def add(self, total: Float64, std: float) -> Float64:
        """Return ``total`` plus independent N(0, std^2) in every coordinate."""
        ...

    def add_integers(self, total: Int64, std: float) -> Int64:
        """Return the integers ``total`` plus independent N(0, std^2), rounded, in every coordinate."""
        ...


def grid(std: float) -> float:
    """Return the public grid that a release with noise ``std`` is rounded to: the power of two 2^(floor(log2 std) - 20).

    The noise before rounding takes about 2^32 values in each cell, so the set of values that can come out does not tell
    which sum lies beneath (Mironov, CCS 2012); a value below 8 std is exact in float32.
    """
    return math.ldexp(1.0, math.frexp(std)[1] - 1 - GRID_BITS)


def add_and_round(total: Float64, normals: Float64, std: float) -> Float64:
    """Return ``total + std * normals`` in float64 on :func:`grid`. ValueError for a std that is not positive, or a sum that
    is not finite (clipping must have removed such units)."""
    if not (std > 0 and math.isfinite(std)):
        raise ValueError(f"a release needs a positive, finite noise std, got {std}")
    if total.dtype != np.float64:
        raise ValueError(f"a release is summed in float64, got {total.dtype}")
    if not np.isfinite(total).all():
        raise ValueError("the clipped sum is not finite: a unit with NaN or infinity was not set to zero")
    step = grid(std)
    noised: Float64 = np.rint((total + std * normals) / step) * step
    return noised


def add_rounded(total: Int64, normals: Float64, std: float) -> Int64:
    """Return ``total + round(std * normals)``. ValueError for a std that is not positive, or other than integers."""
    if not (std > 0 and math.isfinite(std)):
        raise ValueError(f"a release needs a positive, finite noise std, got {std}")
    if total.dtype != np.int64:
        raise ValueError(f"noise is shared in 64-bit integers, got {total.dtype}")
    noised: Int64 = total + np.rint(std * normals).astype(np.int64)
    return noised


class SecureNoise:
    """AES-256 in counter mode under a fresh 256-bit key from the operating system for each draw and each release.

    ``urandom(n)`` returns n bytes of entropy; tests inject their own to see that 32 fresh bytes are asked for each time.
    """

    secure = True

    def __init__(self, urandom: Callable[[int], bytes] = os.urandom) -> None:
        self._urandom = urandom

    def draw(self, units: int, q: float) -> NDArray[np.int64]:
        """Bernoulli(q) for each unit, to 64 bits: q is rounded down to a multiple of 2^-64, never up."""
        if not 0 < q <= 1:
            raise ValueError(f"a Poisson draw needs 0 < q <= 1, got {q}")
        words = np.empty(units, dtype="<u8")
        self._keystream().update_into(bytes(8 * units), words.data.cast("B"))
        threshold = int(q * 2**64)  # exact: a float times a power of two
        chosen = words < np.uint64(threshold) if threshold < 2**64 else np.ones(units, dtype=bool)
        return np.flatnonzero(chosen).astype(np.int64)

    def add(self, total: Float64, std: float) -> Float64:
        """See :class:`Noise`. Float64 throughout, rounded to :func:`grid`."""
        return add_and_round(total, self.normals(total.size).reshape(total.shape), std)

    def add_integers(self, total: Int64, std: float) -> Int64:
        """See :class:`Noise`."""
        return add_rounded(total, self.normals(total.size).reshape(total.shape), std)

    def normals(self, n: int) -> Float64:
        """Return n independent N(0, 1), shape [n], by Box-Muller on 64-bit uniforms under one fresh key.

        A uniform is never zero: it is |w + 1/2| / 2^63 of a signed word w, so at least 2^-64, and the largest radius is
        9.4 (a normal lies beyond with probability 5e-20).
        """
        stream = self._keystream()
        pairs = max(1, min(PAIRS, (n + 1) // 2))
        zeros = bytes(16 * pairs)
        words = np.empty((2, pairs), dtype="<i8")
        # torch's float64 sine and cosine are vectorised; numpy's take five times as long
        real = torch.empty((2, pairs), dtype=torch.float64)
        radius, angle = real.numpy()
        out = np.empty((-(-n // (2 * pairs)), 2, pairs))
        for block in out:
            stream.update_into(zeros, words.data.cast("B"))
            np.add(words[0], 0.5, out=radius)
            np.abs(radius, out=radius)
            np.log(np.multiply(radius, 2.0**-63, out=radius), out=radius)
            np.sqrt(np.multiply(np.abs(radius, out=radius), 2.0, out=radius), out=radius)
            np.multiply(words[1], math.pi * 2.0**-63, out=angle)
            torch.cos(real[1], out=torch.from_numpy(block[0]))
            torch.sin(real[1], out=torch.from_numpy(block[1]))
            np.multiply(block, radius, out=block)
        return out.ravel()[:n]

    def _keystream(self) -> _Keystream:
        key = self._urandom(KEY_BYTES)
        if len(key) != KEY_BYTES:
            raise ValueError(f"the entropy source gave {len(key)} bytes, want {KEY_BYTES}")
        # the key is used once, so the counter may start at zero
        return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()


class _Keystream(Protocol):
    def update_into(self, data: bytes, buffer: memoryview) -> int: ...


class FastNoise:
    """numpy's Philox under 128 bits of operating-system entropy a release. Simulations of public data only."""

    secure = False

    def draw(self, units: int, q: float) -> NDArray[np.int64]:
        """See :class:`Noise`; 53-bit uniforms."""
        if not 0 < q <= 1:
            raise ValueError(f"a Poisson draw needs 0 < q <= 1, got {q}")
        return np.flatnonzero(self._fresh().random(units) < q).astype(np.int64)

    def add(self, total: Float64, std: float) -> Float64:
        """See :class:`Noise`; on the same grid as :class:`SecureNoise`."""
        return add_and_round(total, self._fresh().standard_normal(total.shape), std)

    def add_integers(self, total: Int64, std: float) -> Int64:
        """See :class:`Noise`."""
        return add_rounded(total, self._fresh().standard_normal(total.shape), std)

    @staticmethod
    def _fresh() -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=int.from_bytes(os.urandom(16))))


def noise_source(name: str) -> Noise:
    """Return the source that ``privacy.noise`` names: ``secure`` or ``fast``."""
    sources: dict[str, type[Noise]] = {"secure": SecureNoise, "fast": FastNoise}
    return sources[name]()


class Tape:
    """For tests alone: records what a source released, or replays it whatever the private sums are.

    ``Tape(source)`` records into ``releases``. ``Tape(releases=...)`` answers the k-th ``add`` with the k-th recorded
    release and draws as usual; if everything else is post-processing, no trace of the private data is left in a run.
    """

    secure = False

    def __init__(self, source: Noise | None = None, releases: list[tuple[float, Any]] | None = None) -> None:
        self._source: Noise = source or SecureNoise()
        self._replaying = releases is not None
        self._next = 0
        self.releases: list[tuple[float, Any]] = releases if releases is not None else []

    def draw(self, units: int, q: float) -> NDArray[np.int64]:
        """A fresh draw: it depends on how many units there are, which a replay must not show."""
        return self._source.draw(units, q)

    def add(self, total: Float64, std: float) -> Float64:
        """Record, or replay. ValueError when the public part of a replayed release (std, shape, number) differs."""
        taped: Float64 = self._taped(total, std, self._source.add)
        return taped

    def add_integers(self, total: Int64, std: float) -> Int64:
        """As :meth:`add` does."""
        taped: Int64 = self._taped(total, std, self._source.add_integers)
        return taped

    def _taped(self, total: Any, std: float, add: Callable[[Any, float], Any]) -> Any:
        if not self._replaying:
            self.releases.append((std, add(total, std)))
            return self.releases[-1][1].copy()
        if self._next == len(self.releases):
            raise ValueError(f"the tape holds {self._next} releases and one more is asked for")
        taped_std, release = self.releases[self._next]
        if taped_std != std or release.shape != total.shape:
            raise ValueError(
                f"release {self._next}: std {std} and shape {total.shape}, the tape has {taped_std} and {release.shape}"
            )
        self._next += 1
        return release.copy()
