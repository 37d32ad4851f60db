"""Shared noise in the books: its price, the filter over a data set's life, and what is left where no other site is honest."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from mpssl_fed import config as configs
from mpssl_fed.cli.privacy import plan_text
from mpssl_fed.config import Config
from mpssl_fed.config.secure import MOST_SITES
from mpssl_fed.deployment.owner_report import _spent
from mpssl_fed.livepage.of_site import _budget
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.accounting import ORDERS, ROUNDING, epsilon, merge, rdp, rdp_epsilon, solve_sigma, trajectory
from mpssl_fed.privacy.filter import (
    EXCLUSIVE,
    FILTER_ORDERS,
    BudgetExceededError,
    RenyiFilter,
    admit_round,
    admit_run,
    known_limit,
    lifetime_alone,
    limit_of,
    rounded_up,
)
from mpssl_fed.privacy.ledger import Ledger, PlannedRun
from mpssl_fed.privacy.ledger_rows import Spent
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.policy import Policy
from mpssl_fed.privacy.shared.history import Key, Shared, alone, listed, shared_steps, unlisted
from mpssl_fed.privacy.shared.noise import EXPOSED
from mpssl_fed.report.privacy_section import _trust
from mpssl_fed.report.spent import told_lines, told_of
from mpssl_fed.secure import graph

WHO = Shared(honest=16, colluding=2, sites=20)
STEPS = {(0.5, 0.1, WHO): 60}
DELTA = 1e-5


def shared_config(*overrides: str) -> Config:
    """Return a run whose sites share noise."""
    section = {
        "data": {"name": "mnist-5k", "labels_per_class": 60},
        "method": {"name": "base"},
        "optim": {"name": "sgd", "weight_decay": 0},
        "federation": {"sites": 6, "rounds": 10, "local_steps": 1, "aggregation": "secure"},
        "privacy": {"epsilon": 2, "public_size": 100, "sample_rate": 0.1, "trust": "sum"},
    }
    section["federation"]["secure"] = {"min_sites": 5, "colluding": 1}  # type: ignore[index]
    return configs.from_mapping(configs.override(section, overrides))


def test_what_is_shared_costs_what_its_sum_costs_at_whole_orders() -> None:
    whole = [order for order in ORDERS if order == int(order)]
    assert list(rdp(STEPS, whole)) == list(rdp({(2.0, 0.1): 60}, whole))
    assert rdp(STEPS, [2.5])[0] == rdp(STEPS, [3])[0]  # rounded up
    assert rdp_epsilon({(2.0, 0.1): 60}, DELTA) <= epsilon(STEPS, DELTA) < 1.1 * rdp_epsilon({(2.0, 0.1): 60}, DELTA)
    assert epsilon(alone(STEPS), DELTA) > 5 * epsilon(STEPS, DELTA)
    assert alone({(1.0, 0.1): 3}) == {(1.0, 0.1): 3}


@pytest.mark.parametrize("beside", [{}, {(2.0, 0.1): 5}])
def test_shared_noise_never_reaches_numerical_composition(beside: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("numerical composition of shared noise")

    monkeypatch.setattr(accounting, "_discretise", refuse)
    history = STEPS | beside
    assert epsilon(history, DELTA) == rdp_epsilon(history, DELTA) > 0
    assert trajectory([STEPS, merge(STEPS, beside)], DELTA)[0] == rdp_epsilon(STEPS, DELTA)
    solve_sigma(lambda sigma: {(sigma / 4, 0.1, WHO): 60, **beside}, 3.0, DELTA)


def test_no_epsilon_is_told_where_delta_does_not_pay_for_the_rounding() -> None:
    assert math.isfinite(epsilon(STEPS, 1e-9))
    assert epsilon(STEPS, 1e-16) == math.inf
    limit = RenyiFilter(50.0, 1e-13, shared=True)
    assert limit.would_exceed({}, STEPS)
    assert not limit.would_exceed({}, {(2.0, 0.1): 60})


def test_a_large_fleet_pays_for_the_draw_of_its_neighbours_too() -> None:
    assert EXPOSED == graph.EXPOSED
    few, all_ = ({(0.5, 0.1, WHO._replace(sites=sites)): 60} for sites in (MOST_SITES + 1, MOST_SITES))
    assert epsilon(few, DELTA) == epsilon(all_, DELTA) < math.inf
    delta = 59 * EXPOSED / ROUNDING
    assert epsilon(all_, delta) < math.inf
    assert epsilon(few, delta) == math.inf
    assert RenyiFilter(50.0, delta, shared=True).would_exceed({}, few)


def test_a_history_with_shared_noise_survives_json_and_the_ledger(tmp_path: Path) -> None:
    history = STEPS | {(2.0, 0.1): 3, (0.5, 0.1, WHO._replace(honest=8)): 2}
    assert unlisted(json.loads(json.dumps(listed(history)))) == history
    assert shared_steps(history) == 62
    ledger = Ledger.create(tmp_path / "site.sqlite")
    ledger.begin_run("chest", "run", PlannedRun({}, "plan", history, "end-to-end"), lambda spent: "shared")
    ledger.reserve("chest", "run", 1, {(0.5, 0.1, WHO): 1, (2.0, 0.1): 1}, lambda spent: None)
    spent = Ledger(tmp_path / "site.sqlite").spent("chest")
    assert spent.history == {(0.5, 0.1, WHO): 1, (2.0, 0.1): 1}
    assert spent.runs["run"].planned == history


def test_the_filter_holds_shared_noise_to_the_same_budget() -> None:
    limit, own = RenyiFilter(3.0, DELTA, shared=True), RenyiFilter(3.0, DELTA)
    assert (limit.bounds < own.bounds).all()  # a share of delta is set aside
    assert sum(limit.shares) < DELTA * (1 - 0.999e-3)
    sum_noise, n = {(0.5, 0.1, WHO): 1}, 0
    while not limit.would_exceed({key: n * one for key, one in sum_noise.items()}, sum_noise):
        n += 1
    local = {(2.0, 0.1): n}
    assert not own.would_exceed({}, local)
    assert own.would_exceed({}, {(2.0, 0.1): int(1.2 * n)})
    assert float(min(rdp({(0.5, 0.1, WHO): n}, FILTER_ORDERS) + (3.0 - limit.bounds))) <= 3.0


def test_a_cap_on_what_is_left_alone_stops_rounds_and_runs() -> None:
    capped = RenyiFilter(10.0, DELTA, max_epsilon_alone=20.0, shared=True)
    free = RenyiFilter(10.0, DELTA, shared=True)
    assert epsilon(STEPS, DELTA) < capped.max_epsilon
    assert epsilon(alone(STEPS), DELTA) > 20
    admit_run(free, "run", STEPS)(Spent("chest"))
    for judge in (admit_run(capped, "run", STEPS), admit_round(capped, "run", STEPS)):
        with pytest.raises(BudgetExceededError):
            judge(Spent("chest"))
    one = {(0.5, 0.1, WHO): 1}
    assert admit_run(capped, "run", one)(Spent("chest")) != EXCLUSIVE
    assert known_limit([capped.told()], [], DELTA) == capped


def test_a_plan_prices_the_sum_and_tells_what_trust_buys() -> None:
    plan, own = plan_for(shared_config()), plan_for(shared_config("privacy.trust=site"))
    assert plan.shared == Shared(4, 1, 6)
    assert plan.history() == {(plan.sigma_gradient / 2, 0.1, Shared(4, 1, 6)): 10}
    assert 1.9 < plan.price() <= 2
    assert own.sigma_gradient <= plan.sigma_gradient < 1.15 * own.sigma_gradient  # Renyi beside numerical composition
    told = json.loads(json.dumps(plan.to_json()))["shared"]
    assert told["sigma_of_a_site"] * 2 == told["sigma_of_the_sum"] == plan.sigma_gradient
    assert told["sigma_without_trust"] == own.sigma_gradient
    assert told["epsilon_alone"] == plan.price_alone() > 4
    assert own.to_json()["shared"] is None


def test_a_plan_says_against_whom_it_holds_where_none_may_collude() -> None:
    told, none = (plan_text(plan_for(shared_config(f"federation.secure.colluding={n}")).to_json()) for n in (1, 0))
    assert "curious by itself 4 others are left" in none
    assert "curious" not in told


def test_what_nothing_bounds_is_told_so_and_not_as_a_number() -> None:
    """A site's own part of little noise: no epsilon is left where no other site is honest, and delta pays for no rounding."""
    plan = plan_for(shared_config("privacy.epsilon=90", "federation.sites=60", "federation.secure={masks: false, min_sites: 50}"))
    assert plan.price() <= 90
    assert plan.price_alone() == math.inf
    assert rounded_up(plan.price_alone()) == "infinite"
    assert json.loads(json.dumps(plan.to_json(), allow_nan=False))["shared"]["epsilon_alone"] is None
    assert "if no other site is honest, epsilon infinite is left" in plan_text(plan.to_json())
    assert ["epsilon if no other site is honest", "infinite"] in _trust(plan)


def test_plans_without_shared_noise_commit_to_what_they_did() -> None:
    own = plan_for(shared_config("privacy.trust=site"))
    changed = plan_for(shared_config())
    assert own.commitment() != replace(changed, sigma_gradient=own.sigma_gradient).commitment()
    # as before plans knew of shared noise, so that a run that has begun goes on
    assert replace(own, sigma_gradient=1.5).commitment() == "d27b2901a0fde6d9e2b02c2e3fd5ea9a99261e733efe9354f637f770333e211b"


def policy(**fields: object) -> Policy:
    return Policy.model_validate({"dataset": "chest", "public_size": 100, "max_epsilon": 3, "delta": 1e-5, **fields})


def test_an_owner_who_trusts_sums_sees_both_numbers() -> None:
    trusting = policy(trust="sum", max_epsilon_alone=100)
    assert limit_of(trusting) == RenyiFilter(3, 1e-5, 100, shared=True)
    assert limit_of(policy()) == RenyiFilter(3, 1e-5)
    spent = Spent("chest", history={(0.5, 0.1, WHO): 10})
    told = told_of(spent, trusting, None, simulated=False)
    assert told["epsilon_alone"] == lifetime_alone(limit_of(trusting), spent)
    assert told["epsilon"] < told["epsilon_alone"] < 100
    text = "\n".join(told_lines(told))
    assert "if no other site in those sums is honest" in text
    assert "its part of the noise of 16 honest sites" in text
    assert "epsilon_alone" not in told_of(Spent("chest", {(2.0, 0.1): 3}), policy(), None, simulated=False)


def test_what_is_left_alone_is_told_by_the_filter_that_caps_it() -> None:
    """Else a status could print more than the cap under which a round was admitted."""
    capped = policy(trust="sum", max_epsilon=1, max_epsilon_alone=7)
    history: dict[Key, int] = {(0.8, 0.1, WHO): 10}
    assert not limit_of(capped).would_exceed({}, history)
    told = told_of(Spent("chest", history), capped, None, simulated=False)
    assert told["epsilon_alone"] == RenyiFilter(7, 1e-5, shared=True).epsilon(alone(history)) <= 7
    assert RenyiFilter(1, 1e-5, shared=True).epsilon(alone(history)) > 7  # of the filter made for 1


def test_no_number_is_told_that_delta_does_not_pay_for() -> None:
    """A site's own part of little noise: of what is left alone the rounding costs more than is set aside."""
    spent = Spent("chest", history={(0.2, 0.1, Shared(50, 0, 50)): 60})
    assert epsilon(alone(spent.history), DELTA) == math.inf
    told = told_of(spent, policy(trust="sum", max_epsilon=100), None, simulated=False)
    assert told["epsilon"] < 10
    assert told["epsilon_alone"] is None
    assert "  epsilon infinite if no other site in those sums is honest" in told_lines(told)
    assert told_of(spent, None, None, simulated=False)["epsilon_alone"] is None
    assert _spent({"epsilon": 1.0, "epsilon_alone": None, "max_epsilon": 9}, policy()).count("infinite") == 1
    assert ("if no other site was honest", "infinite") in _budget(
        {"epsilon": 1.0, "epsilon_alone": None, "max_epsilon": 9, "delta": 1e-5, "releases": 1}
    )


def test_shared_noise_stays_paid_for_when_its_owner_trusts_sums_no_more() -> None:
    """The share of delta that its rounding costs is not given back by another policy."""
    trusting, changed = RenyiFilter(3.0, DELTA, shared=True), RenyiFilter(3.0, DELTA)
    key = (20.0, 0.01, Shared(4, 0, 4))
    low, high = 1, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if trusting.would_exceed({}, {key: middle}) else (middle, high)
    assert changed.would_exceed({}, {key: high})
    assert not changed.would_exceed({}, {key: low})
    assert not changed.would_exceed({}, {(40.0, 0.01): high})
    assert changed.epsilon({key: low}) == trusting.epsilon({key: low})


def test_an_account_of_the_gradient_alone_reads_shared_noise_as_all_accounts_do() -> None:
    plan = plan_for(shared_config())
    assert plan.labelled_step_claim() == plan.price()


def test_a_cap_without_trust_is_refused() -> None:
    with pytest.raises(ValueError, match="trust: site never takes"):
        policy(max_epsilon_alone=10)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("federation.aggregation=plain", "federation.aggregation=secure"),
        ("federation.local_steps=2", "federation.local_steps=1"),
        ("optim.name=adamw", "optim.name=sgd"),
        ("optim.name=momentum", "optim.name=sgd"),
        ("optim.weight_decay=0.1", "optim.weight_decay=0"),
        ("federation.weighting=equal", "federation.weighting=size"),
        ("privacy.scope=labelled-step", "privacy.scope=end-to-end"),
        ("federation.secure.neighbours=few", "set it to all"),
    ],
)
def test_what_cannot_share_noise_is_refused_with_the_cure(override: str, words: str) -> None:
    with pytest.raises(Exception, match=r"privacy\.trust=sum") as caught:
        shared_config(override)
    assert words in str(caught.value)


def test_sums_without_masks_are_for_studies_of_shared_noise_alone() -> None:
    shared_config("federation.secure.masks=false", "federation.sites=100", "federation.secure.min_sites=90")
    with pytest.raises(Exception, match=r"federation\.secure\.masks=false"):
        shared_config("federation.secure.masks=false", "privacy.trust=site")
