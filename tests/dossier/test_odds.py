"""Odds against exact values: Gaussians have them in closed form, subsampled ones by Google's privacy loss distributions."""

from __future__ import annotations

import math

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from mpssl_fed.dossier.odds import FALSE_ALARMS, curve, found, percent, success
from mpssl_fed.privacy.accounting import History, epsilon
from mpssl_fed.privacy.shared.history import Shared


def exact(history: History, alarms: float = FALSE_ALARMS) -> tuple[float, float]:
    """Return (chance of a right guess, rate found at ``alarms``) by Google's accountant, a hair above the exact ones."""
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    for (sigma, q), n in history.items():
        accountant.compose(dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(sigma)), n)
    rate = min(accountant.get_delta(e / 10) + math.exp(e / 10) * alarms for e in range(60))
    return (1 + accountant.get_delta(0.0)) / 2, rate


@pytest.mark.parametrize(("sigma", "n"), [(2.354, 6), (0.9, 1)])
def test_of_gaussians_the_chance_is_the_exact_one_and_never_less(sigma: float, n: int) -> None:
    mu = math.sqrt(n) / sigma
    bound = curve({(sigma, 1.0): n})
    chance, rate = norm.cdf(mu / 2), norm.cdf(mu + norm.ppf(FALSE_ALARMS))
    assert chance <= bound.success <= chance + 0.006
    assert rate <= bound.found <= rate + 0.02


def test_of_subsampled_releases_too() -> None:
    history = {(1.2, 0.05): 40, (4.8, 0.05): 8}
    bound, (chance, rate) = curve(history, {1e-5}), exact(history)
    assert chance - 1e-3 <= bound.success <= chance + 0.01
    assert rate - 1e-3 <= bound.found <= rate + 0.05
    assert 1e-5 in dict(bound.points)


@given(st.floats(0, 50), st.floats(0, 0.5))
def test_the_chance_of_one_pair(epsilon: float, delta: float) -> None:
    """Of a pair the best test is known: it answers for sure with probability delta, else by a coin of odds e^epsilon."""
    chance = success(epsilon, delta)
    assert chance == pytest.approx((math.exp(epsilon) + delta) / (1 + math.exp(epsilon)))
    assert 0.5 <= chance <= 1
    assert FALSE_ALARMS <= found(epsilon, delta) <= 1
    assert 2 * chance - 1 >= found(epsilon, delta) - FALSE_ALARMS - 1e-12  # no test is better than the total variation
    assert chance <= float(percent(chance).removesuffix(" %")) / 100 + 1e-12


def test_nothing_released_is_a_coin() -> None:
    assert success(0, 0) == 0.5
    assert found(0, 0) == FALSE_ALARMS
    assert percent(0.5) == "50.0 %"
    assert percent(0.70001) == "70.1 %"


def test_a_curve_has_no_point_where_no_epsilon_can_be_told() -> None:
    """Of shared noise in a large fleet at the smallest deltas: infinity would stand in the picture's axis."""
    history: History = {(0.5, 0.1, Shared(40, 0, 60)): 60}
    bound = curve(history, {1e-5})
    assert epsilon(history, 1e-10) == math.inf
    assert all(math.isfinite(value) for _, value in bound.points)
    assert {1e-5, 0.75} <= {delta for delta, _ in bound.points}
    assert 0.5 < bound.success < 1
