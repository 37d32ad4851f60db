"""Statistics against values worked out by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mpssl_fed.study.statistics import Estimate, compare, estimate, holm, paired_p, verdict


def test_interval_by_hand() -> None:
    # values 1, 2, 3, 4: mean 2.5, s = sqrt(5/3) = 1.290994, t(0.975, 3) = 3.182446, half = 3.182446 x 1.290994 / 2
    result = estimate([1.0, 2.0, 3.0, 4.0])
    assert result.mean == 2.5
    assert result.half == pytest.approx(2.054260, abs=1e-6)
    assert result.n == 4


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    assert estimate([0.3]) == Estimate(0.3, None, 1)
    with pytest.raises(ValueError, match="no value"):
        estimate([])


def test_paired_t_by_hand() -> None:
    # differences 1, 2, 3: mean 2, s = 1, t = 2 sqrt(3) = 3.4641 on 2 degrees: p = 1 - t/sqrt(t^2 + 2) = 1 - sqrt(6/7)
    assert paired_p([1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(6 / 7), abs=1e-12)


def test_paired_t_without_spread_or_pairs() -> None:
    assert paired_p([0.0, 0.0, 0.0]) == 1.0
    assert paired_p([0.1, 0.1, 0.1]) == 0.0
    assert paired_p([0.1]) is None


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=3, max_size=9), st.integers(0, 99))
def test_agrees_with_scipy(values: list[float], seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=len(values))
    other = np.asarray(values) + noise
    expected = stats.ttest_rel(other, values)
    assert paired_p((other - np.asarray(values)).tolist()) == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    ours = estimate((other - np.asarray(values)).tolist())
    assert ours.half is not None
    assert (ours.mean - ours.half, ours.mean + ours.half) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, then never falling: .04 .06 .06 .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_only_raises_p_and_keeps_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    by_p = [corrected[i] for i in np.argsort(p_values, kind="stable")]
    assert by_p == sorted(by_p)
    assert all(c <= min(1, len(p_values) * p) + 1e-12 for p, c in zip(p_values, corrected, strict=True))


def test_comparison_corrects_over_all_arms_and_says_when_it_is_noise() -> None:
    pairs = {
        "gain": [(0.80, 0.70), (0.81, 0.70), (0.79, 0.70), (0.80, 0.705)],
        "noise": [(0.71, 0.70), (0.69, 0.70), (0.70, 0.70), (0.72, 0.705)],
        "loss": [(0.60, 0.70), (0.61, 0.70), (0.59, 0.70), (0.60, 0.705)],
        "two": [(0.9, 0.7), (0.9, 0.7)],
    }
    results = compare(pairs)
    assert {arm: result.verdict for arm, result in results.items()} == {
        "gain": "better", "noise": "within noise", "loss": "worse", "two": "within noise (n < 3)",
    }  # fmt: skip
    p = [results[arm].p for arm in pairs]
    assert [results[arm].p_holm for arm in pairs] == holm([value for value in p if value is not None])
    assert results["gain"].difference.mean == pytest.approx(0.09875)
    flipped = compare(pairs, higher_is_better=False)
    assert (flipped["gain"].verdict, flipped["loss"].verdict) == ("worse", "better")


def test_a_difference_that_only_the_correction_hides_is_noise() -> None:
    assert verdict(Estimate(0.01, 0.009, 5), 0.0501) == "within noise"
    assert verdict(Estimate(0.01, 0.009, 5), 0.0499) == "better"
    assert verdict(Estimate(0.01, None, 1), None) == "within noise (n < 3)"
