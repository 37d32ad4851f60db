"""Statistics against values worked out by hand and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mpssl_fed.study.statistics import Estimate, Paired, compare, estimate, holm, paired_p, q_values, verdict


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
def test_as_it_was_computed_here_before_scipy_did(values: list[float], seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=len(values))
    differences = (np.asarray(values) + noise).tolist()
    n, mean = len(differences), math.fsum(differences) / len(differences)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in differences) / (n - 1)) / math.sqrt(n)
    assert paired_p(differences) == pytest.approx(2 * stats.t.sf(abs(mean) / error, n - 1), rel=1e-9)
    assert estimate(differences).half == pytest.approx(stats.t.ppf(0.975, n - 1) * error, rel=1e-9)
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert (high - low) / 2 == pytest.approx(estimate(differences).half, rel=1e-9)


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


FEW_P = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 1.0])), min_size=1, max_size=6)


@given(FEW_P)
def test_holm_is_the_closed_test_of_bonferronis(p_values: list[float]) -> None:
    """Its definition (Marcus, Peritz and Gabriel 1976): the largest Bonferroni p over all sets of hypotheses that hold the one."""
    everyone = range(len(p_values))
    sets = [chosen for n in everyone for chosen in itertools.combinations(everyone, n + 1)]
    for number, found in enumerate(holm(p_values)):
        worst = max(min(1.0, len(chosen) * min(p_values[n] for n in chosen)) for chosen in sets if number in chosen)
        assert found == pytest.approx(worst, abs=1e-12)


@given(FEW_P, st.floats(0.001, 0.999))
def test_q_below_a_level_is_what_the_step_up_procedure_rejects(p_values: list[float], level: float) -> None:
    """Benjamini and Hochberg's own rule: the k smallest p, k the largest rank whose p is at most level k / m."""
    ordered, m = sorted(p_values), len(p_values)
    ranks = [k for k in range(1, m + 1) if ordered[k - 1] <= level * k / m]
    last = ordered[max(ranks) - 1] if ranks else -1.0
    near = any(abs(p - level * k / m) < 1e-9 for p in p_values for k in range(1, m + 1))
    assert near or [q <= level for q in q_values(p_values)] == [p <= last for p in p_values]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8), st.integers(0, 99))
def test_p_is_that_of_the_paired_test(pairs: list[tuple[float, float]], seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.1, len(pairs))
    values = [(one + luck, other) for (one, other), luck in zip(pairs, noise.tolist(), strict=True)]
    found = compare({"a": Paired(values)})["a"]
    assert found.p == pytest.approx(float(stats.ttest_rel(*zip(*values, strict=True)).pvalue), rel=1e-9)
    assert (found.verdict == "better") == (found.difference.n > 2 and found.p < 0.05 and found.difference.mean > 0)


def test_comparison_corrects_over_all_arms_and_says_when_it_is_noise() -> None:
    pairs = {
        "gain": [(0.80, 0.70), (0.81, 0.70), (0.79, 0.70), (0.80, 0.705)],
        "noise": [(0.71, 0.70), (0.69, 0.70), (0.70, 0.70), (0.72, 0.705)],
        "loss": [(0.60, 0.70), (0.61, 0.70), (0.59, 0.70), (0.60, 0.705)],
        "two": [(0.9, 0.7), (0.9, 0.7)],
    }
    values = {arm: Paired(of_arm) for arm, of_arm in pairs.items()}
    verdicts = {"gain": "better", "noise": "within noise", "loss": "worse", "two": "within noise (n < 3)"}
    for primary, correct in ((set(pairs), holm), (set(), q_values)):
        results = compare(values, primary)
        assert {arm: result.verdict for arm, result in results.items()} == verdicts
        p = [results[arm].p for arm in pairs]
        assert [results[arm].corrected for arm in pairs] == correct([value for value in p if value is not None])
        assert {result.primary for result in results.values()} == {bool(primary)}
        assert results["gain"].difference.mean == pytest.approx(0.09875)
    flipped = compare(values, higher_is_better=False)
    assert (flipped["gain"].verdict, flipped["loss"].verdict) == ("worse", "better")
    mirrored = results["gain"].mirrored()
    assert (mirrored.difference.mean, mirrored.verdict) == (pytest.approx(-0.09875), "worse")
    assert mirrored.mirrored() == results["gain"]


def test_neither_family_pays_for_the_other() -> None:
    """A clear primary difference among 127 exploratory ones of noise: Holm over all 128 together called it noise."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.03, (128, 5))
    pairs = {n: Paired([(0.6 + value, 0.6) for value in row]) for n, row in enumerate(noise.tolist())}
    gain = Paired([(0.7, 0.6), (0.73, 0.6), (0.66, 0.6), (0.69, 0.6), (0.72, 0.6)])
    together = compare(pairs | {0: gain}, set(pairs))
    apart = compare(pairs | {0: gain}, {0})
    assert together[0].verdict == "within noise"
    assert apart[0].verdict == "better"
    assert apart[0].corrected == apart[0].p == together[0].p
    rest = compare({n: values for n, values in pairs.items() if n})
    assert {n: apart[n] for n in rest} == rest


def test_a_primary_comparison_that_is_not_finished_counts_already() -> None:
    """Else a study would look surer of itself early on than it can be in the end."""
    gain = Paired([(0.7, 0.6), (0.73, 0.6), (0.66, 0.6), (0.69, 0.6), (0.72, 0.6)])
    found = compare({"a": gain, "b": Paired([]), "c": Paired([(0.5, 0.6)])}, ["a", "b", "c"])
    assert found["a"].p is not None
    assert found["a"].corrected == pytest.approx(3 * found["a"].p)
    assert "b" not in found
    assert (found["c"].p, found["c"].corrected) == (None, None)


def test_q_by_hand() -> None:
    # p .01 .02 .03 .04 of 4, times 4 / rank: all .04, and from the largest down never rising
    assert q_values([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.04, 0.04, 0.04, 0.04])
    assert q_values([0.5, 0.01]) == pytest.approx([0.5, 0.02])
    assert q_values([]) == []


def test_seeds_that_were_added_count_for_the_mean_alone() -> None:
    # first differences 1 2 3: s = 1 on 2 degrees of freedom; with 4 and 5 the mean is 3 over n = 5: t = 3 sqrt(5) = sqrt(45)
    result = estimate([1.0, 2.0, 3.0], [4.0, 5.0])
    assert (result.mean, result.n) == (3.0, 5)
    assert result.half == pytest.approx(4.302653 / math.sqrt(5), abs=1e-6)
    assert paired_p([1.0, 2.0, 3.0], [4.0, 5.0]) == pytest.approx(1 - math.sqrt(45 / 47), abs=1e-12)
    found = compare({"a": Paired([(1.0, 0.0), (2.0, 0.0), (3.0, 0.0)], [(4.0, 0.0), (5.0, 0.0)])})["a"]
    assert (found.difference, found.p) == (result, paired_p([1.0, 2.0, 3.0], [4.0, 5.0]))
    tied = Paired([(0.0, 0.0)] * 3, [(0.02, 0.0), (0.0, 0.0), (0.01, 0.0)])
    assert compare({"a": tied})["a"].verdict == "within noise"  # ties tell no spread, so no interval of width 0 follows from them
    assert compare({"a": tied})["a"].difference == estimate([0.0] * 3 + [0.02, 0.0, 0.01])
    lone = compare({"a": Paired([(1.0, 0.0)], [(2.0, 0.0), (3.0, 0.0)])})["a"]  # of one seed there is no spread
    assert lone.difference == estimate([1.0, 2.0, 3.0])


def test_a_difference_that_only_the_correction_hides_is_noise() -> None:
    assert verdict(Estimate(0.01, 0.009, 5), 0.0501) == "within noise"
    assert verdict(Estimate(0.01, 0.009, 5), 0.0499) == "better"
    assert verdict(Estimate(0.01, None, 1), None) == "within noise (n < 3)"
