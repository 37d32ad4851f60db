from __future__ import annotations

import math
import re

import numpy as np
import pytest
from dp_accounting import dp_event, pld
from dp_accounting import rdp as google_rdp
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis import prv
from scipy import integrate

from mpssl_fed.errors import UserError
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.accounting import epsilon, merge, rdp, rdp_epsilon, solve_sigma, trajectory

DELTA = 1e-5


def event(history: accounting.History) -> dp_event.DpEvent:
    """The same history in the words of Google's dp-accounting."""
    return dp_event.ComposedDpEvent(
        [
            dp_event.SelfComposedDpEvent(dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(sigma)), n)
            for (sigma, q), n in history.items()
        ]
    )


def pld_epsilon(history: accounting.History, delta: float, grid: float = 1e-3) -> float:
    return pld.PLDAccountant(value_discretization_interval=grid).compose(event(history)).get_epsilon(delta)


def with_lmo(sigma: float, q: float, steps: int, every: int) -> dict[tuple[float, float], int]:
    return merge({(sigma, q): steps}, {(sigma, q): steps // every}, {(4 * sigma, q): steps // every})


GRID = [
    (0.8, 0.01, 2000, 5),
    (0.8, 0.05, 100, 1),
    (1.0, 0.02, 2000, 1),
    (1.5, 0.01, 2000, 1),
    (1.5, 0.05, 400, 5),
    (1.5, 0.3, 60, 5),
    (4.0, 0.01, 2000, 1),
    (4.0, 0.05, 400, 5),
    (4.0, 0.3, 60, 1),
]
LOOSE = 3e-3  # PLD on this grid lies a little above the exact value too


@pytest.mark.parametrize(("sigma", "q", "steps", "every"), GRID)
def test_epsilon_is_within_two_hundredths_of_googles_pld(sigma: float, q: float, steps: int, every: int) -> None:
    history = with_lmo(sigma, q, steps, every)
    ours, theirs = epsilon(history, DELTA), pld_epsilon(history, DELTA)
    assert theirs - LOOSE <= ours <= theirs + 0.02


@pytest.mark.parametrize("delta", [1e-4, 1e-7])
@pytest.mark.parametrize(
    "history",
    [
        {(10.0, 1.0): 1, (1.2, 0.02): 500},  # one release of all units, then sampled ones
        {(1.0, 0.02): 60, (2.0, 0.1): 30, (5.0, 0.004): 900},
        {(1.0, 1.0): 1},
    ],
)
def test_compositions_of_different_mechanisms_agree_with_pld(history: accounting.History, delta: float) -> None:
    ours, theirs = epsilon(history, delta), pld_epsilon(history, delta)
    assert theirs - LOOSE <= ours <= theirs + 0.02


@pytest.mark.parametrize("history", [{(1.0, 0.02): 2000}, with_lmo(1.5, 0.05, 400, 5), {(3.0, 1.0): 4}])
def test_renyi_curve_and_epsilon_agree_with_google(history: accounting.History) -> None:
    orders = [2, 3, 8, 20, 64, 256]
    accountant = google_rdp.RdpAccountant(orders)
    accountant.compose(event(history))
    np.testing.assert_allclose(rdp(history, orders), accountant._rdp, rtol=1e-6)
    assert rdp_epsilon(history, DELTA) == pytest.approx(
        google_rdp.RdpAccountant().compose(event(history)).get_epsilon(DELTA), rel=0.01
    )


@pytest.mark.parametrize(("sigma", "q"), [(1.0, 0.02), (0.8, 0.1)])
@pytest.mark.parametrize("order", [1.1, 1.5, 2.5, 3.3])
def test_fractional_orders_agree_with_quadrature(sigma: float, q: float, order: float) -> None:
    """Google's fractional orders are a looser bound, so the integral itself is the reference."""

    def integrand(x: float) -> float:
        density = math.exp(-x * x / (2 * sigma**2)) / math.sqrt(2 * math.pi) / sigma
        return density * (1 - q + q * math.exp((2 * x - 1) / (2 * sigma**2))) ** order

    moment, _ = integrate.quad(integrand, -30 * sigma, 40 * sigma, points=[0, 1], limit=500, epsabs=1e-14)
    assert rdp({(sigma, q): 1}, [order])[0] == pytest.approx(math.log(moment) / (order - 1), rel=1e-6)


def test_the_numbers_that_were_measured_before() -> None:
    assert epsilon({(1.0, 0.02): 2000}, DELTA) == pytest.approx(5.63, abs=0.02)
    assert epsilon({(1.0, 0.02): 6000}, DELTA) == pytest.approx(10.47, abs=0.02)
    assert epsilon({(3**-0.5, 0.02): 2000}, DELTA) == pytest.approx(22.44, abs=0.03)  # one draw for three releases
    assert epsilon({(1.0, 0.02): 2800}, DELTA) == pytest.approx(6.77, abs=0.02)


def test_epsilon_is_never_the_central_limit_estimate() -> None:
    from opacus.accountants import GaussianAccountant

    with pytest.warns(UserWarning, match="underestimate"):
        gdp = GaussianAccountant()
    gdp.history = [(1.0, 0.02, 2000)]
    assert gdp.get_epsilon(DELTA) < pld_epsilon({(1.0, 0.02): 2000}, DELTA) < epsilon({(1.0, 0.02): 2000}, DELTA)


def test_small_budgets_are_not_drowned_by_the_slack_of_prv() -> None:
    history = {(60.0, 0.01): 100}
    exact = pld_epsilon(history, DELTA, grid=1e-5)
    assert exact <= epsilon(history, DELTA) <= 1.13 * exact


def test_renyi_takes_over_where_prv_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    history = {(1.234, 0.02): 300}
    exact = epsilon(history, DELTA)
    accounting._trajectory.cache_clear()

    def fail(*_: object) -> None:
        raise RuntimeError("Discrete mean differs significantly from continuous mean.")

    monkeypatch.setattr("opacus.accountants.analysis.prv.discretize", fail)
    assert epsilon(history, DELTA) == rdp_epsilon(history, DELTA) > exact
    accounting._trajectory.cache_clear()


def test_a_history_too_long_for_prv_is_priced_by_renyi() -> None:
    history = {(50.0, 0.5): 10**8}
    assert epsilon(history, DELTA) == rdp_epsilon(history, DELTA)


def test_nothing_released_costs_nothing() -> None:
    assert epsilon({}, DELTA) == rdp_epsilon({}, DELTA) == 0
    assert trajectory([{}, {(1.0, 0.1): 1}], DELTA)[0] == 0


def test_the_trajectory_is_each_rounds_own_epsilon() -> None:
    rounds = [with_lmo(1.5, 0.02, 50 * r, 5) for r in range(1, 5)]
    path = trajectory(rounds, DELTA)
    assert path == sorted(path)
    for value, history in zip(path, rounds, strict=True):
        assert value == pytest.approx(epsilon(history, DELTA), abs=0.011)
        assert value >= pld_epsilon(history, DELTA) - LOOSE


def test_merge_adds_equal_kinds_and_drops_none_left() -> None:
    alternating = [(1.0, 0.02, 1), (4.0, 0.02, 1)] * 300
    assert merge(alternating, {(1.0, 0.02): 5, (2.0, 0.5): 0}) == {(1.0, 0.02): 305, (4.0, 0.02): 300}


@pytest.mark.parametrize("bad", [(0.0, 0.1, 1), (-1.0, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.5, 1), (math.nan, 0.1, 1), (1, 0.1, -1)])
def test_a_release_that_is_none_is_refused(bad: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match=re.escape("sigma > 0")):
        merge([bad])


@given(
    st.dictionaries(
        st.tuples(st.sampled_from([0.7, 1.0, 2.5, 8.0]), st.sampled_from([0.01, 0.1, 1.0])),
        st.integers(1, 50),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([0.7, 1.0, 2.5, 8.0]),
)
@settings(max_examples=40, deadline=None)
def test_one_more_release_never_costs_less(history: dict[tuple[float, float], int], sigma: float) -> None:
    more = merge(history, {(sigma, 0.1): 1})
    assert (rdp(more) >= rdp(history)).all()
    assert rdp_epsilon(more, DELTA) >= rdp_epsilon(history, DELTA)


@pytest.mark.parametrize("target", [0.3, 2.0])
def test_the_sigma_solved_meets_the_target_and_hardly_undercuts_it(target: float) -> None:
    def plan(sigma: float) -> accounting.History:
        return with_lmo(sigma, 0.02, 100, 5)

    sigma = solve_sigma(plan, target, DELTA)
    assert epsilon(plan(sigma), DELTA) <= target
    assert epsilon(plan(sigma * 0.995), DELTA) > target
    assert len(repr(sigma)) <= 6


def test_solving_gives_the_published_table() -> None:
    a5 = solve_sigma(lambda s: {(s, 0.02): 2400, (4 * s, 0.02): 400}, 3.0, DELTA)
    assert a5 == pytest.approx(1.568, abs=0.006)


def test_a_budget_beyond_reach_is_refused_and_one_beyond_use_stops_at_the_smallest_sigma() -> None:
    with pytest.raises(UserError, match="fewer rounds"):
        solve_sigma(lambda s: {(s, 1.0): 10**12}, 0.01, DELTA)
    assert solve_sigma(lambda s: {(s, 0.02): 10}, 1e6, DELTA) == 0.2


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5])
def test_delta_outside_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon({(1.0, 0.1): 1}, delta)


MIXES = [
    ({(0.2, 0.5): 4}, 1e-3),
    ({(0.7942, 0.1): 40, (3.1768, 0.1): 8}, 1e-5),
    ({(1.7, 0.5): 4, (30.0, 1.0): 2}, 1e-9),
    ({(0.5, 1.0): 1}, 1e-2),
    ({(900.0, 0.003): 20_000}, 1e-12),
    ({(2e4, 0.9): 3}, 1e-5),
    ({(0.9, 1e-4): 5_000, (0.3, 0.02): 2, (6.0, 0.99): 300}, 1e-7),
]


@pytest.mark.parametrize(("history", "delta"), MIXES)
def test_orders_that_are_not_looked_at_are_never_the_best(history: accounting.History, delta: float) -> None:
    """To the last bit the least over all orders, Opacus' own too, whose grid we take."""
    for orders in (accounting.ORDERS, tuple(sorted(RDPAccountant.DEFAULT_ALPHAS))):
        every = rdp(history, orders) + np.array([accounting.conversion(order, delta) for order in orders])
        assert accounting.best_order(history, delta, orders) == (every.min(), orders[int(every.argmin())])
    variables = [prv.PoissonSubsampledGaussianPRV(q, sigma) for sigma, q in history]
    with accounting._quiet():
        theirs = prv.compute_safe_domain_size(variables, list(history.values()), 0.01, delta)
    assert accounting._safe_half(dict(history), 0.01, delta) == pytest.approx(theirs, rel=1e-12)
