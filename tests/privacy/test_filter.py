from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting import rdp as google_rdp
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.privacy.accounting import epsilon, merge, rdp_epsilon
from mpssl_fed.privacy.filter import (
    EXCLUSIVE,
    FILTER_ORDERS,
    SHARED,
    BudgetExceededError,
    RenyiFilter,
    admit_round,
    admit_run,
)

STEP = {(1.5, 0.02): 60, (6.0, 0.02): 12}
LIMIT = RenyiFilter(3.0, 1e-5)


@dataclass
class Spent:
    history: dict = field(default_factory=dict)
    unaccounted: bool = False
    terms: dict = field(default_factory=dict)


def times(history: dict, n: int) -> dict:
    return {key: n * count for key, count in history.items()}


def most(limit: RenyiFilter) -> int:
    """How many STEPs the filter lets through, one after the other."""
    n = 0
    while not limit.would_exceed(times(STEP, n), STEP):
        n += 1
    return n


def test_the_filter_is_googles_renyi_composition_with_delta_shared_over_the_orders() -> None:
    """An independent filter: Google's divergences and conversion, one order at a time."""
    orders = [order for order in FILTER_ORDERS if order == int(order)]
    n = most(LIMIT)
    verdicts = {}
    for count in (n, n + 1):
        accountant = google_rdp.RdpAccountant(orders)
        for (sigma, q), steps in times(STEP, count).items():
            accountant.compose(dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(sigma)), steps)
        costs = dict(zip(orders, accountant._rdp, strict=True))
        found = [
            google_rdp.compute_epsilon([order], [costs[order]], share)[0]
            for order, share in zip(FILTER_ORDERS, LIMIT.shares, strict=True)
            if order in costs
        ]
        verdicts[count] = min(found) > LIMIT.max_epsilon
    assert verdicts == {n: False, n + 1: True}


def test_the_shares_of_delta_add_up_to_delta() -> None:
    for limit in (LIMIT, RenyiFilter(0.1, 1e-7), RenyiFilter(50.0, 1e-4)):
        assert limit.shares.sum() == pytest.approx(limit.delta, rel=1e-12)
        assert (limit.shares > 0).all()


@pytest.mark.parametrize("max_epsilon", [0.5, 3.0, 5.0])
def test_what_the_filter_lets_through_stays_below_the_budget_and_uses_most_of_it(max_epsilon: float) -> None:
    limit = RenyiFilter(max_epsilon, 1e-5)
    spent = times(STEP, most(limit))
    if max_epsilon > 0.5:
        assert 0.85 * max_epsilon < rdp_epsilon(spent, 1e-5)
    assert rdp_epsilon(spent, 1e-5) <= limit.epsilon(spent) <= max_epsilon
    assert epsilon(spent, 1e-5) <= max_epsilon


@given(
    st.lists(st.tuples(st.sampled_from([0.8, 2.0, 9.0]), st.sampled_from([0.01, 0.2, 1.0]), st.integers(1, 400)), max_size=8),
    st.sampled_from([0.3, 2.0, 20.0]),
)
@settings(max_examples=60, deadline=None)
def test_no_order_of_requests_gets_past_the_budget(requests: list[tuple[float, float, int]], max_epsilon: float) -> None:
    limit = RenyiFilter(max_epsilon, 1e-6)
    spent: dict = {}
    for request in requests:
        if not limit.would_exceed(spent, merge([request])):
            spent = merge(spent, [request])
    assert rdp_epsilon(spent, 1e-6) <= max_epsilon
    assert limit.epsilon(spent) <= max_epsilon + 1e-12
    assert not limit.would_exceed(spent, {})
    assert np.isfinite(limit.bounds).all()


def test_a_run_that_fits_the_filter_shares_the_budget_and_each_round_is_judged() -> None:
    plan = times(STEP, 5)
    assert admit_run(LIMIT, "one", plan)(Spent()) == SHARED
    spent = Spent(times(STEP, most(LIMIT)), terms={"one": SHARED})
    with pytest.raises(BudgetExceededError, match="this round does not fit"):
        admit_round(LIMIT, "one", STEP)(spent)
    with pytest.raises(BudgetExceededError, match="fewer rounds"):
        admit_run(LIMIT, "two", STEP)(spent)


def test_a_first_run_may_take_the_whole_budget_at_its_exact_price_and_nobody_comes_after() -> None:
    n = most(LIMIT) + 1
    plan = times(STEP, n)
    assert epsilon(plan, 1e-5) < LIMIT.max_epsilon
    assert admit_run(LIMIT, "one", plan)(Spent()) == EXCLUSIVE
    spent = Spent(times(STEP, n - 1), terms={"one": EXCLUSIVE})
    admit_round(LIMIT, "one", STEP)(spent)
    for judge in (admit_run(LIMIT, "two", STEP), admit_round(LIMIT, "two", STEP)):
        with pytest.raises(BudgetExceededError, match="'one' has taken"):
            judge(Spent({}, terms={"one": EXCLUSIVE}))
    with pytest.raises(BudgetExceededError, match="fewer rounds"):
        admit_run(LIMIT, "late", plan)(Spent(STEP, terms={"earlier": SHARED}))


def test_a_data_set_read_outside_the_accounting_is_refused_end_to_end_alone() -> None:
    tainted = Spent(unaccounted=True)
    for judge in (admit_run(LIMIT, "one", STEP), admit_round(LIMIT, "one", STEP)):
        with pytest.raises(BudgetExceededError, match="infinite"):
            judge(tainted)
    assert admit_run(LIMIT, "one", STEP, end_to_end=False)(tainted) == SHARED
