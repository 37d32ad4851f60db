"""Integers with shared noise: the argument of `mpssl_fed.privacy.shared.noise`, each step against a brute-force count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import erf

from mpssl_fed.privacy.accounting import rdp
from mpssl_fed.privacy.noise import FastNoise, SecureNoise, add_rounded
from mpssl_fed.privacy.shared.noise import LEAST_STD, MOST_COORDINATE, MOST_STD, SharedNoise, rounding_distance

Pmf = NDArray[np.float64]


@settings(max_examples=200)
@given(st.floats(0.1, 100), st.floats(1e-3, 1e3), st.integers(1, 1000), st.integers(1, 10_000_000))
def test_a_sum_of_honest_parts_has_the_planned_noise(sigma: float, clip: float, honest: int, parameters: int) -> None:
    one = SharedNoise(sigma, clip, honest)
    assert math.frexp(one.grid)[0] == 0.5  # a power of two
    moved = clip / one.grid + math.sqrt(parameters)  # by one unit, rounding included
    assert LEAST_STD <= one.sigma * clip / one.grid / math.sqrt(honest) < 2 * LEAST_STD
    assert math.isclose(math.sqrt(honest) * one.std(parameters) / moved, sigma)
    assert one.std(parameters) < MOST_STD


def test_noise_beyond_use_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        SharedNoise(1e5, 1.0, 1).std(10**9)
    with pytest.raises(ValueError, match="honest"):
        SharedNoise(1.0, 1.0, 0)


def test_one_unit_moves_the_integers_by_no_more_than_the_sensitivity() -> None:
    rng, one = np.random.default_rng(0), SharedNoise(1.0, 0.7, 4)
    for _ in range(200):
        without = rng.normal(0, 10, 50)
        unit = rng.normal(size=50)
        unit *= one.clip / np.linalg.norm(unit)
        moved = one.integers(without + unit) - one.integers(without)
        assert np.linalg.norm(moved) <= one.clip / one.grid + math.sqrt(50)


def test_what_is_public_and_huge_moves_no_unit_further() -> None:
    """Planted: added before the rounding, a public vector from 2^51 on leaves float64 halves alone: a sum is rounded twice."""
    one, d = SharedNoise(1.0, 1.0, 4), 50
    quiet = Quiet()
    public = np.full(d, 2.0**51 + 1) * one.grid
    unit = np.full(d, 0.26 + 0.26) * one.grid
    without = np.full(d, -0.26) * one.grid
    bound = np.linalg.norm(unit) / one.grid + math.sqrt(d)
    moved = one.part(without + unit, quiet, public) - one.part(without, quiet, public)
    assert np.linalg.norm(moved) <= bound
    at_once = one.part(without + unit + public, quiet) - one.part(without + public, quiet)
    assert np.linalg.norm(at_once) > 1.3 * bound
    assert (one.part(without, quiet, public) == 2**51 + 1).all()


class Quiet(FastNoise):
    """No noise."""

    def add_integers(self, total: NDArray[np.int64], std: float) -> NDArray[np.int64]:
        return total.copy()


def test_what_is_huge_is_clipped_and_what_is_not_finite_refused() -> None:
    one = SharedNoise(1.0, 1.0, 4)
    assert one.integers(np.array([1e300, -1e300, 0.0])).tolist() == [MOST_COORDINATE, -MOST_COORDINATE, 0]
    with pytest.raises(ValueError, match="finite"):
        one.integers(np.array([np.nan]))


@pytest.mark.parametrize("source", [SecureNoise(), FastNoise()])
def test_integer_noise_is_a_rounded_gaussian_that_leaves_the_total_alone(source: SecureNoise | FastNoise) -> None:
    total, std = np.full(40_000, 10**12, dtype=np.int64), 3.0
    noised = source.add_integers(total, std)
    assert noised.dtype == np.int64
    noise = (noised - total).astype(float)
    assert abs(noise.mean()) < 5 * std / 200
    assert abs(noise.var() / (std**2 + 1 / 12) - 1) < 0.05
    assert not np.array_equal(noised, source.add_integers(total, std))


def test_noise_is_added_to_integers_alone_and_in_full() -> None:
    with pytest.raises(ValueError, match="64-bit integers"):
        add_rounded(np.zeros(3), np.zeros(3), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="positive"):
        add_rounded(np.zeros(3, dtype=np.int64), np.zeros(3), 0.0)


def _rounded(s: float, wide: int) -> Pmf:
    edges = np.arange(-wide, wide + 2) - 0.5
    return np.diff(0.5 * (1 + erf(edges / (s * math.sqrt(2)))))


def _discrete(variance: float, wide: int) -> Pmf:
    x = np.arange(-wide, wide + 1)
    weights = np.exp(-(x**2) / (2 * variance))
    return weights / weights.sum()


@pytest.mark.parametrize(("s", "honest"), [(1.5, 2), (2.0, 1), (2.0, 3), (3.0, 2), (4.0, 5)])
def test_a_sum_of_rounded_gaussians_is_as_near_the_discrete_one_as_said(s: float, honest: int) -> None:
    pmf, wide = _rounded(s, 60), 60
    total = pmf
    for _ in range(honest - 1):
        total = np.convolve(total, pmf)
    apart = 0.5 * np.abs(total - _discrete(honest * (s**2 + 1 / 12), honest * wide)).sum()
    assert apart < 1 / (120 * honest * s**4)
    assert apart > 1e-3 / (120 * honest * s**4)  # the bound is of the right size, so that a smaller power of s would fail


def test_the_distance_that_is_charged_is_that_of_all_coordinates_and_steps() -> None:
    assert rounding_distance(1000, 4) == 1000 * 2**31 / (120 * 4 * (2.0**22) ** 4)


@pytest.mark.parametrize("q", [1.0, 0.2, 0.01])
@pytest.mark.parametrize(("variance", "shift"), [(4.0, 1), (9.0, 2), (30.0, 5)])
def test_subsampled_discrete_gaussians_diverge_as_the_continuous_ones(q: float, variance: float, shift: int) -> None:
    """In both directions, at whole orders: what `rdp` charges is what a count over all integers finds, or more."""
    orders, wide = (2, 3, 5, 8), 700
    base = _discrete(variance, wide)
    moved = np.zeros_like(base)
    moved[shift:] = base[:-shift]
    mixed = (1 - q) * base + q * moved
    charged = rdp({(math.sqrt(variance) / shift, q): 1}, orders)
    for order, bound in zip(orders, charged, strict=True):
        there = _renyi(mixed, base, order)
        assert math.isclose(there, bound, rel_tol=1e-6, abs_tol=1e-12)
        assert _renyi(base, mixed, order) <= bound * (1 + 1e-9)


def _renyi(p: Pmf, q: Pmf, order: int) -> float:
    inside = (p > 1e-280) & (q > 1e-280)  # beyond, what is left out is below rounding
    return math.log(np.sum(np.exp(order * np.log(p[inside]) - (order - 1) * np.log(q[inside])))) / (order - 1)
