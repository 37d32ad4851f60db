"""What is reported is never below the exact epsilon, at any delta, and how far above."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import rdp as google_rdp

from mpssl_fed.errors import UserError
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.accounting import LEAST_DELTA_OF_PRV, conversion, epsilon, rdp, solve_sigma
from mpssl_fed.privacy.filter import FILTER_ORDERS, SHARED, RenyiFilter, admit_run
from tests.privacy.exact_epsilon import exact_epsilon, gaussian_epsilon, one_release_epsilon
from tests.privacy.test_accounting import event, with_lmo
from tests.privacy.test_filter import Spent

DELTAS = (1e-3, 1e-5, 1e-8, 1e-9, 1e-10, 1e-12, 1e-14)
ROUNDING = 1e-4  # relative: of the exact values


def check(ours: float, exact: float, delta: float, loosest: float) -> None:
    assert ours >= exact * (1 - ROUNDING), f"{ours} is reported for {exact}"
    if delta >= LEAST_DELTA_OF_PRV:
        assert ours <= exact + max(1.3 * min(0.01, 0.13 * exact), 2e-3 * exact), f"{ours} is reported for {exact}"
    assert ours <= (1 + loosest) * exact, f"{ours} is reported for {exact}"


@pytest.mark.parametrize("delta", [1e-3, 1e-8, 1e-14])
@pytest.mark.parametrize(("sigma", "n"), [(0.6, 2), (2.0, 10), (100.0, 10)])
def test_the_exact_values_are_those_of_the_analytic_gaussian(sigma: float, n: int, delta: float) -> None:
    assert exact_epsilon({(sigma, 1.0): n}, delta) == pytest.approx(gaussian_epsilon(sigma, n, delta), rel=1e-5)


@pytest.mark.parametrize("delta", [1e-5, 1e-9, 1e-14])
@pytest.mark.parametrize(("sigma", "q"), [(0.6, 0.1), (2.0, 0.3), (5.0, 0.5)])
def test_and_of_one_subsampled_release(sigma: float, q: float, delta: float) -> None:
    assert exact_epsilon({(sigma, q): 1}, delta) == pytest.approx(one_release_epsilon(sigma, q, delta), rel=5e-5)


@pytest.mark.parametrize("delta", DELTAS)
def test_releases_of_all_units_against_the_analytic_gaussian(delta: float) -> None:
    for sigma, n in ((0.6, 2), (1.0, 1), (2.0, 10), (20.0, 100), (100.0, 10), (300.0, 10)):
        check(epsilon({(sigma, 1.0): n}, delta), gaussian_epsilon(sigma, n, delta), delta, 0.2)


@pytest.mark.parametrize("delta", DELTAS)
def test_one_subsampled_release_against_its_closed_form(delta: float) -> None:
    """Where Renyi composition is alone, it is loose for so few releases."""
    for sigma, q in ((0.5, 0.01), (1.0, 0.02), (1.0, 0.3), (3.0, 0.1)):
        check(epsilon({(sigma, q): 1}, delta), one_release_epsilon(sigma, q, delta), delta, 0.3)


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "every", "delta"),
    [
        (1.0, 0.02, 2000, 5, 1e-12),  # PRV: 10.716 for an exact 10.732
        (1.5, 0.05, 400, 1, 1e-13),  # 8.83 for 8.90
        (1.5, 0.05, 400, 1, 1e-9),
        (0.8, 0.01, 200, 5, 1e-14),
        (4.0, 0.3, 60, 5, 1e-11),
        (4.0, 0.01, 2000, 1, 1e-10),
        (20.0, 0.02, 500, 5, 1e-6),
        (2.0, 0.01, 30_000, 5, LEAST_DELTA_OF_PRV),  # where rounding errors are largest
    ],
)
def test_whole_plans_against_the_exact_composition(sigma: float, q: float, steps: int, every: int, delta: float) -> None:
    history = with_lmo(sigma, q, steps, every)
    check(epsilon(history, delta), exact_epsilon(history, delta, cells=30), delta, 0.2)


@pytest.mark.parametrize(("target", "delta"), [(0.01, 1e-6), (0.003, 1e-12)])
def test_a_small_budget_is_met_without_much_waste(target: float, delta: float) -> None:
    """At 512, the largest order once, no noise at all could vouch for these."""
    assert conversion(512, delta) > target

    def plan(sigma: float) -> accounting.History:
        return with_lmo(sigma, 0.02, 100, 5)

    sigma = solve_sigma(plan, target, delta)
    exact = exact_epsilon(plan(sigma), delta, cells=30)
    assert 0.85 * target < exact <= target
    assert epsilon(plan(sigma), delta) <= target


def test_a_budget_that_no_accounting_can_vouch_for_is_refused_with_its_cure() -> None:
    with pytest.raises(UserError, match=r"epsilon=0\.0001 at delta=1e-12 .* set privacy\.epsilon to 0\.000\d or more"):
        solve_sigma(lambda sigma: {(sigma, 0.01): 10}, 1e-4, 1e-12)


@pytest.mark.parametrize(("sigma", "q"), [(30.0, 0.02), (100.0, 0.5), (50.0, 1.0)])
def test_large_orders_are_googles(sigma: float, q: float) -> None:
    orders = [600, 1024, 4096]
    accountant = google_rdp.RdpAccountant(orders)
    accountant.compose(event({(sigma, q): 7}))
    np.testing.assert_allclose(rdp({(sigma, q): 7}, orders), accountant._rdp, rtol=1e-7)


def test_a_small_lifetime_budget_is_no_budget_of_zero() -> None:
    """The filter's largest order was 256: it refused every round of a data set with 0.01."""
    limit = RenyiFilter(0.01, 1e-5)
    step = {(300.0, 0.02): 10}
    assert limit.shares.sum() == pytest.approx(1e-5)
    assert admit_run(limit, "one", step)(Spent()) == SHARED
    rounds = 0
    while not limit.would_exceed({(300.0, 0.02): 10 * rounds}, step):
        rounds += 1
    spent = {(300.0, 0.02): 10 * rounds}
    assert rounds > 10
    assert exact_epsilon(spent, 1e-5, cells=30) <= limit.epsilon(spent) <= 0.01


@pytest.mark.parametrize(("budget", "delta"), [(0.03, 1e-5), (0.1, 1e-6), (1.0, 1e-5), (8.0, 1e-10)])
def test_the_orders_of_budgets_that_were_of_use_before_stay(budget: float, delta: float) -> None:
    """Shares of delta are fixed before a data set's first release; other ones in the middle of its life would void the filter."""
    limit = RenyiFilter(budget, delta)
    assert limit.orders == FILTER_ORDERS
    assert (limit.bounds > 0).any()
    assert math.isclose(limit.shares.max(), delta / 2)
