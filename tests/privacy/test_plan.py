from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.config import Config, from_mapping
from mpssl_fed.errors import UserError
from mpssl_fed.method.reads import reads
from mpssl_fed.privacy.accounting import epsilon, merge
from mpssl_fed.privacy.mechanism import Mechanism
from mpssl_fed.privacy.plan import Plan, plan_for
from mpssl_fed.privacy.releases import ReleaseSettings
from mpssl_fed.privacy.units.per_unit import Speed


def config(method: str = "mp-ssl", privacy: dict | None = None, **sections: dict) -> Config:
    return from_mapping(
        {
            "method": {"name": method, "lmo_every": 5},
            "federation": {"rounds": 3, "local_steps": 42, "sites": 1},
            "privacy": {"epsilon": 2.0, "public_size": 1000, **(privacy or {})},
            **sections,
        }
    )


def test_the_plan_costs_what_was_asked_and_its_sigmas_keep_their_relation() -> None:
    plan = plan_for(config())
    assert 0.99 * 2.0 <= plan.price() <= 2.0
    assert plan.sigma_meta == plan.sigma_gradient
    assert plan.sigma_feature == pytest.approx(4 * plan.sigma_gradient, rel=1e-5)
    steps = {one.mechanism.kind: one.steps for one in plan.releases()}
    assert steps == {"gradient": 126, "meta": 25, "feature": 25}  # t = 5, 10, ..., 125: lambda is 0 at step 0
    assert plan.history() == {(plan.sigma_gradient, 0.02): 151, (plan.sigma_feature, 0.02): 25}


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 50), st.booleans())
@settings(max_examples=60)
def test_the_rounds_add_up_to_the_plan(rounds: int, local_steps: int, every: int, pseudo: bool) -> None:
    plan = Plan(
        scope="end-to-end",
        unit="image",
        epsilon=1.0,
        delta=1e-5,
        public_size=100,
        q=0.1,
        rounds=rounds,
        local_steps=local_steps,
        lmo_every=every,
        clip_gradient=1.0,
        clip_meta=1.0,
        clip_feature=1.0,
        sigma_gradient=1.0,
        sigma_meta=1.5,
        sigma_feature=4.0,
        sigma_pseudo_label=10.0 if pseudo else None,
    )
    by_round = merge(*(plan.round_history(number) for number in range(1, rounds + 1)))
    assert by_round == plan.history()
    counted = {one.mechanism.kind: one.steps for one in plan.releases()}
    assert counted["meta"] == sum(t % every == 0 for t in range(rounds * local_steps))
    for outside in (0, rounds + 1):
        with pytest.raises(UserError, match="outside the plan"):
            plan.round_history(outside)


def test_a_late_first_round_still_pays_for_the_pseudo_labels() -> None:
    plan = plan_for(config("p-ssl"))
    assert plan.sigma_pseudo_label == pytest.approx(10 * plan.sigma_gradient, rel=1e-5)
    key = (plan.sigma_pseudo_label, 1.0)
    assert plan.round_history(2, first=True)[key] == 1
    assert key not in plan.round_history(1, first=False)
    assert plan.history()[key] == 1
    assert plan.price() <= 2.0


@pytest.mark.parametrize("model", [{"trainable": "head"}, {"name": "hog"}])
def test_without_a_trainable_body_meta_and_feature_are_neither_planned_nor_charged(model: dict) -> None:
    frozen = config(model=model)
    assert not reads(frozen).meta
    plan = plan_for(frozen)
    assert plan.sigma_meta is None
    assert plan.sigma_feature is None
    assert plan.history() == plan_for(config("base")).history()


def test_a_gap_of_weight_zero_has_no_feature_release() -> None:
    bare = from_mapping(
        {
            "method": {"name": "mp-ssl", "gap": {"weight": 0}},
            "federation": {"rounds": 1, "local_steps": 10},
            "privacy": {"epsilon": 2.0, "public_size": 100},
        }
    )
    assert [one.mechanism.kind for one in plan_for(bare).releases()] == ["gradient", "meta"]


def test_labelled_step_scope_prices_the_supervised_gradient_alone() -> None:
    plan = plan_for(config(privacy={"scope": "labelled-step"}))
    assert [one.mechanism.kind for one in plan.releases()] == ["gradient"]
    assert plan.price() == plan.labelled_step_claim() <= 2.0
    assert plan.sigma_gradient < plan_for(config()).sigma_gradient


def test_the_site_grants_less_than_the_config_asks() -> None:
    plan = plan_for(config(), epsilon=0.5, delta=1e-6, public_size=500, unit="subject")
    assert plan.price() <= 0.5
    assert (plan.delta, plan.public_size, plan.unit) == (1e-6, 500, "subject")
    assert plan.sigma_gradient > plan_for(config()).sigma_gradient


def test_delta_above_a_tenth_of_a_record_is_refused_where_the_site_is_larger_than_the_config_says() -> None:
    with pytest.raises(UserError, match=r"1/\(10 public_size\) = 5e-06"):
        plan_for(config(), public_size=20_000)


def test_no_plan_without_privacy_or_with_real_unlabeled_images() -> None:
    with pytest.raises(UserError, match="scope is off"):
        plan_for(from_mapping({}))
    with pytest.raises(UserError, match="unlabeled"):
        plan_for(config("ssl-real"))


def test_the_commitment_names_every_field() -> None:
    plan = plan_for(config("base"))
    commitments = {plan.commitment()}
    for change in ({"rounds": 4}, {"q": 0.03}, {"clip_gradient": 2.0}, {"sigma_gradient": 9.0}, {"unit": "subject"}):
        commitments.add(replace(plan, **change).commitment())
    assert len(commitments) == 6
    assert plan_for(config("base")).commitment() == plan.commitment()


def test_json_tells_price_history_noise_and_what_lmo_costs() -> None:
    plan = plan_for(config(privacy={"per_class_gap": True}))
    told = json.loads(json.dumps(plan.to_json(classes=10), allow_nan=False))
    assert told["epsilon"] == plan.price()
    assert merge(told["history"]) == plan.history()
    assert told["epsilon"] == pytest.approx(epsilon(merge(told["history"]), 1e-5))
    assert [point["round"] for point in told["epsilon_after_round"]] == [1, 2, 3]
    assert told["epsilon_after_round"][-1]["epsilon"] == pytest.approx(told["epsilon"], abs=1e-9)
    assert told["lmo"]["epsilon_without"] < told["epsilon"]
    assert told["lmo"]["sigma_without"] < told["sigma"]
    assert told["labelled_step_epsilon"] < told["epsilon"]
    by_name = {release["name"]: release for release in told["releases"]}
    assert by_name["gradient"]["noise_over_clip"] == pytest.approx(told["sigma"] / 20)
    assert by_name["feature"]["noise_over_clip_of_a_class"] == pytest.approx(10 * by_name["feature"]["noise_over_clip"])


def test_long_runs_are_told_at_fifty_rounds_that_end_with_the_last() -> None:
    plan = replace(plan_for(config("base")), rounds=400, local_steps=1)
    told = plan.epsilon_after_rounds()
    assert len(told) == 50
    assert told[-1]["round"] == 400


def test_a_plan_gives_the_mechanisms_that_are_priced_and_answered() -> None:
    """One set of numbers: what is solved, printed, reserved and added as noise cannot differ. Speed holds none of them."""
    plan = plan_for(config("p-ssl"))
    found = plan.mechanisms()
    assert [*found] == ["gradient", "pseudo-label"]
    assert {(one.sigma, one.q) for one in found.values()} == plan.history().keys()
    assert found["gradient"].denominator == plan.q * plan.public_size
    assert found["pseudo-label"].denominator == plan.public_size
    described = {row["name"]: row for row in plan.to_json()["releases"]}
    for kind, one in found.items():
        assert (described[kind]["noise_std"], described[kind]["clip"]) == (one.std, one.sensitivity)
        assert ReleaseSettings(plan).mechanism(kind) == one
    with pytest.raises(RuntimeError, match="'meta' is not in the plan"):
        ReleaseSettings(plan).mechanism("meta")
    with pytest.raises(ValueError, match="clip_gradient=1e-30"):
        replace(plan, clip_gradient=1e-30)
    of_guarantees = {field.name for kind in (Plan, ReleaseSettings, Mechanism) for field in fields(kind)}
    assert not {field.name for field in fields(Speed)} & of_guarantees
