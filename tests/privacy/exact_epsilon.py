"""Epsilon of Poisson-subsampled Gaussians to five digits at any delta, independent of the accountants under test.

The privacy loss of one release is put on a grid such that both densities' mass in each cell is kept (arXiv 2207.04380: a little
too large, by the square of the grid), and tilted by e^(t loss) (Esscher): under the tilt the rare losses that decide a delta of
1e-14 lie in the middle of the distribution, so that the Fourier transform's rounding, 1e-16 of its largest value, is 1e-13 of
delta. Two grids are extrapolated. Both directions, a unit added and a unit removed, are taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_ndtr, ndtr

Float64 = NDArray[np.float64]
History = Mapping[tuple[float, float], int]
REACH = 12.0  # standard deviations kept on either side, of a release and of the sum
MOST = 1 << 21


class Loss:
    """Loss log dP/dQ of one release, P the mixture (a unit removed) or Q the mixture (added)."""

    def __init__(self, sigma: float, q: float, removed: bool, t: float) -> None:
        self.sigma, self.q, self.sign = sigma, q, 1 if removed else -1
        # x that matter: the tilt moves the outputs by up to t on the mixture's side
        ends = np.array([-REACH * sigma, 1 + t + REACH * sigma]) if removed else np.array([-t - REACH * sigma, 1 + REACH * sigma])
        if not removed and q < 1:
            ends[0] = -REACH * sigma
        found = self.sign * self.ratio(ends)
        self.low, self.high = float(found.min()), float(found.max())
        x = np.linspace(*ends, 20_001)
        loss = self.sign * self.ratio(x)
        logs = self.log_p(x) + t * loss
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        self.mean = float(weights @ loss)
        self.variance = float(weights @ (loss - self.mean) ** 2)

    def ratio(self, x: Float64) -> Float64:
        """log of mixture over N(0, sigma^2)."""
        inner = (2 * x - 1) / (2 * self.sigma**2)
        return np.logaddexp(math.log1p(-self.q), math.log(self.q) + inner) if self.q < 1 else inner

    def log_p(self, x: Float64) -> Float64:
        base = -(x**2) / (2 * self.sigma**2)
        return base + self.ratio(x) if self.sign > 0 else base

    def place(self, ratio: Float64) -> Float64:
        """The x at which the ratio is reached; -inf where none is so low."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.q == 1:
                return self.sigma**2 * ratio + 0.5
            above = np.expm1(ratio) + self.q
            return np.where(above > 0, self.sigma**2 * np.log(np.maximum(above, 0) / self.q) + 0.5, -np.inf)

    def tilted(self, h: float, t: float) -> tuple[int, Float64, float]:
        """First grid number, probabilities of the tilted loss on the grid of ``h``, log of the tilt's normaliser."""
        first, last = math.floor(self.low / h), math.ceil(self.high / h)
        grid = h * np.arange(first, last + 1)
        edges = self.place(self.sign * grid)[:: self.sign]
        of_null, of_unit = (_cells(edges / self.sigma - shift / self.sigma)[:: self.sign] for shift in (0.0, 1.0))
        mixture = (1 - self.q) * of_null + self.q * of_unit
        p, w = (mixture, of_null) if self.sign > 0 else (of_null, mixture)
        # p in a cell [l, l + h] goes to its ends such that the mass of P and of Q = e^-loss P stay
        upper = np.clip((p - w * np.exp(grid[:-1])) / -math.expm1(-h), 0, p)
        mass = np.zeros(len(grid))
        mass[:-1] += p - upper
        mass[1:] += upper
        with np.errstate(divide="ignore"):
            logs = np.log(mass) + t * grid
        top = logs.max()
        weights = np.exp(logs - top)
        return first, weights / weights.sum(), top + math.log(weights.sum())


def _cells(edges: Float64) -> Float64:
    """Standard normal mass between neighbouring edges, from the nearer tail."""
    below, above = ndtr(edges), ndtr(-edges)
    return np.where(edges[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1])


def _delta_at(history: History, removed: bool, t: float, cells: float) -> tuple[Float64, Float64, float, float]:
    """Composed losses, their tilted probabilities, log normaliser, mean; ``cells``: grid cells a standard deviation."""
    losses = {key: Loss(*key, removed, t) for key in history}
    std = math.sqrt(sum(n * losses[key].variance for key, n in history.items()))
    mean = sum(n * losses[key].mean for key, n in history.items())
    h = min(std, 4 * max(math.sqrt(loss.variance) for loss in losses.values())) / cells
    widest = max(loss.high - loss.low for loss in losses.values())
    size = 1 << math.ceil(math.log2((2 * REACH * std + 2 * widest) / h + 2))
    assert size <= MOST, f"{size} points"
    transform, log_scale, offset = np.ones(size // 2 + 1, dtype=complex), 0.0, 0
    for key, n in history.items():
        first, mass, scale = losses[key].tilted(h, t)
        padded = np.zeros(size)
        np.add.at(padded, np.arange(len(mass)) % size, mass)
        transform *= np.fft.rfft(padded) ** n
        log_scale += n * scale
        offset += n * first
    composed = np.fft.irfft(transform, size)
    centre = round(mean / h)
    numbers = np.arange(centre - size // 2, centre - size // 2 + size)
    return numbers * h, np.maximum(composed[(numbers - offset) % size], 0), log_scale, mean


def _epsilon(history: History, delta: float, removed: bool, cells: float) -> float:
    def chernoff(log_t: float) -> float:
        t = math.exp(log_t)
        return (sum(n * _log_moment(*key, removed, t) for key, n in history.items()) - math.log(delta)) / t

    t = math.exp(minimize_scalar(chernoff, bounds=(-3, 12), method="bounded", options={"xatol": 1e-2}).x)
    losses, mass, log_scale, _ = _delta_at(history, removed, t, cells)

    def excess(epsilon: float) -> float:
        beyond = losses > epsilon
        far = losses[beyond]
        with np.errstate(divide="ignore"):
            logs = np.log(mass[beyond]) - t * far + np.log(-np.expm1(epsilon - far))
        top = logs.max(initial=-math.inf)
        if not math.isfinite(top):
            return -math.inf
        return float(log_scale + top + math.log(np.exp(logs - top).sum()) - math.log(delta))

    if excess(0.0) <= 0:
        return 0.0
    high = 1e-6
    while excess(high) > 0:
        high *= 2
    return float(brentq(lambda e: max(excess(e), -1e3), 0.0, high, xtol=1e-12, rtol=1e-10))


def _log_moment(sigma: float, q: float, removed: bool, t: float) -> float:
    ends = (-REACH * sigma, 1 + t + REACH * sigma) if removed else (-(t if q == 1 else 0) - REACH * sigma, 1 + REACH * sigma)
    x = np.linspace(*ends, 4001)
    loss = Loss.__new__(Loss)
    loss.sigma, loss.q, loss.sign = sigma, q, 1 if removed else -1
    logs = loss.log_p(x) + t * loss.sign * loss.ratio(x)
    top = logs.max()
    step = (ends[1] - ends[0]) / 4000
    return float(top + math.log(np.exp(logs - top).sum() * step / (sigma * math.sqrt(2 * math.pi))))


def exact_epsilon(history: History, delta: float, cells: float = 100.0) -> float:
    """Return the epsilon of ``history`` at ``delta``."""
    history = {key: n for key, n in history.items() if n}

    def one_way(removed: bool) -> float:
        coarse, fine = (_epsilon(history, delta, removed, c) for c in (cells, 2 * cells))
        return max(0.0, fine - (coarse - fine) / 3)

    removed = one_way(True)
    most_added = sum(-n * math.log1p(-q) if q < 1 else math.inf for (_, q), n in history.items())  # no loss is larger
    return removed if most_added <= removed else max(removed, one_way(False))


def gaussian_epsilon(sigma: float, n: int, delta: float) -> float:
    """n releases of all units: theorem 8 of Balle and Wang (arXiv 1805.06530), in logarithms."""
    mu = math.sqrt(n) / sigma

    def excess(epsilon: float) -> float:
        one, other = float(log_ndtr(mu / 2 - epsilon / mu)), epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
        return one + math.log(-math.expm1(min(other - one, -1e-18))) - math.log(delta)

    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, mu * mu + 60 * mu + 1, xtol=1e-13, rtol=1e-12))


def one_release_epsilon(sigma: float, q: float, delta: float) -> float:
    """One subsampled release: the mass of either density beyond the output at which the loss is epsilon."""

    def excess(epsilon: float, removed: bool) -> float:
        level = math.expm1(epsilon) + q if removed else math.expm1(-epsilon) + q
        if level <= 0:
            return -1e3
        x = sigma**2 * math.log(level / q) + 0.5
        null, unit = (float(ndtr((-1 if removed else 1) * (x - shift) / sigma)) for shift in (0.0, 1.0))
        mixture = (1 - q) * null + q * unit
        gap = mixture - math.exp(epsilon) * null if removed else null - math.exp(epsilon) * mixture
        return math.log(max(gap, 1e-300)) - math.log(delta)

    high = [60 / sigma**2 + 60 / sigma + 5, -math.log1p(-q) if q < 1 else 60 / sigma**2 + 60 / sigma + 5]
    return max(
        0.0 if excess(0.0, removed) <= 0 else float(brentq(excess, 0.0, top, args=(removed,), xtol=1e-14, rtol=1e-12))
        for removed, top in zip((True, False), high, strict=True)
    )
