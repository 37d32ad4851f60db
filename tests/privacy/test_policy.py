from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mpssl_fed.codes import Code
from mpssl_fed.config import Config, from_mapping, load
from mpssl_fed.errors import UserError
from mpssl_fed.generators.base import load_generator
from mpssl_fed.privacy.policy import SCOPES, Policy, Request, decide, load_policy

SHA = "ab" * 32
POLICY: dict[str, Any] = {
    "dataset": "chest",
    "public_size": 1000,
    "max_epsilon": 3.0,
    "delta": 1e-5,
    "min_sigma": 0.8,
    "max_sample_rate": 0.05,
    "max_clip": 2.0,
    "max_rounds": 20,
    "max_local_steps": 50,
    "max_parameters": 1000,
    "methods": ["base", "mp-ssl", "random+infonce"],
    "generators": [{"name": "glyphs-digits", "sha256": SHA, "trained_on": "public fonts", "public": True}],
    "metrics": ["train_s"],
}


def policy(**changes: Any) -> Policy:
    return Policy.model_validate({**POLICY, **changes})


def config(**sections: Any) -> Config:
    base: dict[str, Any] = {
        "privacy": {"epsilon": 2.0, "public_size": 500, "delta": 2e-6},
        "federation": {"rounds": 20, "local_steps": 50},
        "method": {"name": "mp-ssl"},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section}
    return from_mapping(base)


def request(values: dict[str, Any] | None = None, **changes: Any) -> Request:
    known = {"sigma": 1.0, "parameters": 1000, "generator_sha256": SHA, "metrics": ("train_s",)}
    asked = Request.of(config(), **known)  # type: ignore[arg-type]
    return replace(asked, values={**asked.values, **(values or {})}, **changes)


def test_a_request_within_the_bounds_is_granted_with_the_owners_numbers() -> None:
    decision = decide(policy(), request())
    assert decision.refusals == ()
    granted = decision.granted
    assert granted is not None
    assert granted.epsilon == 2.0
    assert granted.lifetime_epsilon == 3.0
    assert granted.delta == 2e-6
    assert granted.public_size == 1000  # the owner's word, whatever the server says
    assert granted.generator_public
    assert (granted.rounds, granted.local_steps, granted.metrics) == (20, 50, ("train_s",))
    assert decide(policy(scope="labelled-step"), request()).granted.scope == "end-to-end"  # type: ignore[union-attr]
    by_subject = decide(policy(unit="subject"), request({"privacy.unit": "subject"})).granted
    assert by_subject is not None
    assert by_subject.unit == "subject"


OFF = {"privacy.scope": "off"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"privacy.epsilon": 3.1}, Code.EPSILON),
        ({"privacy.epsilon": float("inf")}, Code.EPSILON),
        ({"privacy.epsilon": float("nan")}, Code.EPSILON),
        ({"privacy.epsilon": 1e-9}, Code.EPSILON),
        ({"privacy.delta": 2e-4}, Code.DELTA),
        ({"privacy.delta": 1.01e-5}, Code.DELTA),  # below 1/(10 public_size), above the policy's
        ({"privacy.unit": "subject"}, Code.UNIT),
        ({"privacy.sample_rate": 0.06}, Code.SAMPLE_RATE),
        ({"privacy.clip.meta": 2.1}, Code.CLIP),
        ({"privacy.clip.feature": 1e-30}, Code.CLIP),
        ({"federation.rounds": 21}, Code.ROUNDS),
        ({"federation.local_steps": 51}, Code.STEPS),
        ({"privacy.noise": "fast"}, Code.NOISE),
        ({"privacy.scope": "labelled-step"}, Code.SCOPE),
        (OFF, Code.SCOPE),
        ({"method.name": "vic-gssl"}, Code.METHOD),
        ({"method.name": "ssl-real", "method.source": "real"}, Code.METHOD),
        ({"method.name": None, "method.source": "real", "method.loss": "scr"}, Code.METHOD),
        ({"generator.name": "biggan-deep-128"}, Code.GENERATOR),
        ({"generator.path": "x"}, Code.PATH),
    ],
)
def test_each_excess_is_refused_by_its_own_code(change: dict[str, Any], code: Code) -> None:
    decision = decide(policy(), request(change))
    assert decision.granted is None
    assert decision.codes == (code.value,)
    assert decision.refusals[0].text


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sigma": 0.79}, Code.SIGMA),
        ({"sigma": float("nan")}, Code.SIGMA),
        ({"sigma": float("inf")}, Code.SIGMA),
        ({"parameters": 1001}, Code.MODEL_SIZE),
        ({"generator_sha256": "cd" * 32}, Code.GENERATOR),
        ({"metrics": ("loss",)}, Code.METRIC),
    ],
)
def test_what_is_known_beside_the_config_is_bounded_too(change: dict[str, Any], code: Code) -> None:
    assert decide(policy(), request(**change)).codes == (code.value,)


def test_a_subject_policy_is_not_asked_by_image() -> None:
    """Either way round the ledger and the server would mean different things by one unit."""
    assert decide(policy(unit="subject"), request()).codes == ("unit",)
    assert decide(policy(unit="image", scope="off"), request({**OFF, "privacy.unit": "subject"})).granted is not None


def test_what_follows_from_several_keys_is_bounded() -> None:
    assert decide(policy(max_steps=1000), request()).granted is not None
    assert decide(policy(max_steps=999), request()).codes == ("steps",)
    task = {"classes": ["a", "b"], "size": 224, "stored_size": None, "channels": 3}
    large = {f"data.task.{key}": value for key, value in task.items()}
    buffer = {"method.buffer": 100, "method.batch": 100}  # 10,000 images of 150 KB
    assert decide(policy(), request(large)).granted is not None
    assert decide(policy(), request(large | buffer)).codes == ("server-key",)
    assert decide(policy(max_synthetic_mb=1506), request(large | buffer)).granted is not None


def test_every_reason_is_told_at_once_and_codes_carry_no_value() -> None:
    decision = decide(policy(), request({"privacy.epsilon": 7.25, "federation.rounds": 4321, "method.name": "secret-method"}))
    assert decision.codes == ("epsilon", "rounds", "steps", "method")
    assert not any(mark in code for code in decision.codes for mark in ("7.25", "4321", "secret"))
    assert "4321" in decision.refusals[1].text


def test_without_a_policy_nothing_is_answered() -> None:
    assert decide(None, request()).codes == ("no-policy",)


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"generator": {"path": "/etc/passwd"}}, "generator.path"),
        ({"data": {"root": "../secrets"}}, "data.root"),
        ({"model": {"pretrained": "weights.pt"}}, "model.pretrained"),
        ({"model": {"name": "evil.module:Net"}}, "model.name"),
        ({"method": {"name": None, "source": "os:system", "loss": "scr"}}, "method.source"),
        ({"method": {"options": {"module": "os"}}}, "method.options"),
    ],
)
def test_paths_and_imports_from_outside_are_refused(sections: dict[str, Any], where: str) -> None:
    decision = decide(policy(), Request.of(config(**sections), generator_sha256=SHA))
    assert "path" in decision.codes
    assert any(refusal.text.startswith(where) for refusal in decision.refusals)


def test_a_pair_without_a_name_is_permitted_as_source_plus_loss() -> None:
    pair = Request.of(config(method={"name": None, "source": "random", "loss": "infonce"}), generator_sha256=SHA)
    assert decide(policy(), pair).granted is not None
    assert decide(policy(methods=["mp-ssl"]), pair).codes == ("method",)


def test_a_generator_is_asked_for_by_source_warm_start_or_anchor_alone() -> None:
    bare = policy(generators=[])
    assert decide(bare, Request.of(config(method={"name": "base"}))).granted is not None
    for sections in ({"warm_start": {"part": "head"}}, {"federation": {"anchor": {"weight": 1.0}}}):
        assert decide(bare, Request.of(config(method={"name": "base"}, **sections))).codes == ("generator",)


def test_a_private_generator_may_run_but_gives_no_epsilon_zero() -> None:
    private = policy(generators=[{"name": "glyphs-digits", "sha256": SHA, "trained_on": "our archive"}])
    granted = decide(private, request()).granted
    assert granted is not None
    assert not granted.generator_public


@given(
    st.sampled_from(SCOPES),
    st.sampled_from(SCOPES),
    st.floats(0.01, 10),
    st.integers(1, 100),
    st.floats(0.01, 1),
    st.floats(1e-9, 1e-3),
)
def test_what_is_granted_never_exceeds_request_or_policy(
    mine: str, asked: str, epsilon: float, rounds: int, q: float, delta: float
) -> None:
    values = {
        "privacy.scope": asked,
        "privacy.epsilon": epsilon,
        "federation.rounds": rounds,
        "privacy.sample_rate": q,
        "privacy.delta": delta,
    }
    decision = decide(policy(scope=mine), request(values))
    granted = decision.granted
    assert (granted is None) == bool(decision.refusals)
    if granted:
        assert SCOPES.index(granted.scope) >= max(SCOPES.index(mine), SCOPES.index(asked))
        assert granted.rounds <= min(20, rounds)
        assert granted.delta <= min(1e-5, delta)
        if asked != "off":
            assert granted.epsilon is not None
            assert granted.epsilon <= min(3.0, epsilon)
            assert granted.sample_rate <= min(0.05, q)


def write(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"max_epsilom": 3}, r"unknown key 'max_epsilom'. Did you mean 'max_epsilon'\?"),
        ({"methods": ["mp-sssl"]}, r"unknown method 'mp-sssl'. Did you mean 'mp-ssl'\?"),
        ({"methods": ["ssl-real"]}, "no policy can allow it"),
        ({"methods": ["real+scr"]}, "no policy can allow it"),
        ({"metrics": ["accuracy"]}, "unknown metric 'accuracy'"),
        ({"metrics": ["loss"]}, "exact numbers about the data"),
        ({"delta": 1e-3}, r"above 1/\(10 public_size\)"),
        ({"max_epsilon": -1}, "max_epsilon=-1"),
        ({"max_epsilon": 1e9}, "max_epsilon=1000000000.0: Input should be less than or equal to 100"),
        ({"min_sigma": 1e-9}, "min_sigma=1e-09: Input should be greater than or equal to 0.1"),
        ({"delta": 1e-30}, "delta=1e-30"),
        ({"max_clip": 1e30}, "max_clip=1e[+]30"),
        ({"min_clip": 5.0}, "min_clip=5 is above max_clip=2"),
        ({"max_rounds": 10**9}, "max_rounds=1000000000"),
        ({"public_size": 10**12, "delta": 1e-14}, "public_size=1000000000000"),
        ({"generators": [{"name": "g", "sha256": "short", "trained_on": "fonts"}]}, "generators.0.sha256='short'"),
        ({"generators": [{"name": "g", "sha256": SHA, "trained_on": "fonts", "pubic": True}]}, r"Did you mean 'public'\?"),
        ({"generators": [{"name": "g", "sha256": SHA}]}, "'generators.0.trained_on' is missing"),
    ],
)
def test_a_wrong_policy_file_names_file_key_and_cure(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = write(tmp_path, {**POLICY, **change})
    with pytest.raises(UserError, match=told) as error:
        load_policy(path)
    assert str(path) in str(error.value)


def test_the_defaults_are_end_to_end_without_metrics_or_generators() -> None:
    least = Policy.model_validate({"dataset": "d", "public_size": 10, "max_epsilon": 1, "delta": 1e-3})
    assert (least.scope, least.metrics, least.generators) == ("end-to-end", (), ())
    assert "ssl-real" not in least.methods


def test_the_shipped_policy_permits_the_shipped_private_config_with_the_shipped_generator() -> None:
    shipped = load_policy("configs/policies/site.yaml")
    asked = Request.of(load("configs/privacy/end-to-end.yaml"), generator_sha256=load_generator("glyphs-digits").state_hash())
    granted = decide(shipped, asked).granted
    assert granted is not None
    assert granted.generator_public
    assert decide(shipped, Request.of(load("configs/privacy/labelled-step.yaml"))).codes == ("scope",)


def test_codes_are_short_words() -> None:
    assert all(code.value.replace("-", "").isalpha() for code in Code)


def test_the_numbers_of_old_policies_that_were_never_sent_are_passed_over() -> None:
    """A rehearsal of version 0.1 listed them; a site with its policy starts as before, and grants no more than there is."""
    old = policy(scope="off", metrics=["loss", "supervised", "meta", "train_s"])
    assert old.metrics == ("loss", "train_s")
    assert policy(metrics=["supervised"]).metrics == ()
    with pytest.raises(ValueError, match="exact numbers"):
        policy(metrics=["gap"])
    with pytest.raises(ValueError, match="Did you mean 'train_s'"):
        policy(metrics=["train_ss"])
