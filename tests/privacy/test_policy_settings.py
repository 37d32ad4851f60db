"""How an owner agrees to more, or to less, than a site takes by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mpssl_fed.config import from_mapping
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.policy import Policy, Request, decide, load_policy, table, to_agree
from mpssl_fed.privacy.policy_settings import LEAVES, by_default

LEAST: dict[str, Any] = {"dataset": "d", "public_size": 1000, "max_epsilon": 4, "delta": 1e-5}
CONFIG: dict[str, Any] = {"method": {"name": "base"}, "privacy": {"epsilon": 2, "public_size": 1000}}


def codes(policy: dict[str, Any], **asked: Any) -> tuple[str, ...]:
    """Return why a request with some keys (dots written as ``__``) is refused."""
    request = Request.of(from_mapping(CONFIG))
    values = {key.replace("__", "."): value for key, value in asked.items()}
    return decide(Policy.model_validate(LEAST | policy), Request({**request.values, **values})).codes


def test_a_value_replaces_the_default() -> None:
    own = {"settings": {"privacy.clip.gradient": 0.5, "optim.name": "sgd", "method.options": {"scale": 2}}}
    asked = {"privacy__clip__gradient": 0.5, "optim__name": "sgd", "method__options": {"scale": 2}}
    assert codes(own, **asked) == ()
    assert codes(own) == ("clip", "path", "server-key")  # the defaults are no longer what this owner takes
    assert codes({}, **asked) == ("clip", "path")


def test_lists_and_ranges() -> None:
    own = {"settings": {"privacy.clip.gradient": {"min": 0.1}, "privacy.max_physical_batch": [8, 64], "optim.lr": {"max": 0.5}}}
    assert codes(own) == ("site-key",)
    for clip in (0.1, 1.0, 1000.0):
        assert codes(own, privacy__clip__gradient=clip, privacy__max_physical_batch=64) == ()
    assert codes(own, privacy__clip__gradient=0.09, privacy__max_physical_batch=16, optim__lr=0.6) == (
        "clip",
        "site-key",
        "server-key",
    )
    assert codes({"settings": {"optim.betas": [[0.9, 0.999]]}}, optim__betas=[0.9, 0.999]) == ()
    assert codes({"settings": {"optim.betas": {"min": 0.5}}}, optim__betas=[0.9, 0.4]) == ("server-key",)


def test_settings_may_be_nested_as_in_a_config() -> None:
    nested = {"settings": {"privacy": {"clip": {"gradient": {"min": 0.1, "max": 2}}, "per_unit": "loop"}}}
    assert codes(nested, privacy__clip__gradient=2.0, privacy__per_unit="loop") == ()
    assert codes(nested, privacy__clip__gradient=2.1, privacy__per_unit="loop") == ("clip",)


def test_one_bound_for_all_clips() -> None:
    assert codes({"max_clip": 2}, privacy__clip__meta=2.0, privacy__clip__gradient=0.001) == ()
    assert codes({"min_clip": 0.5}, privacy__clip__meta=0.4) == ("clip",)
    own = {"max_clip": 2, "settings": {"privacy.clip.feature": 5}}  # the key by itself counts
    assert codes(own, privacy__clip__feature=5.0) == ()
    assert codes(own) == ("clip",)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"optim.lrr": 1}, r"settings: unknown config key 'optim.lrr'. Did you mean 'optim.lr'\?"),
        (
            {"privacy": {"clip": {"gradeint": 1}}},
            r"unknown config key 'privacy.clip.gradeint'. Did you mean 'privacy.clip.gradient'\?",
        ),
        ({"output.dir": "x"}, r"settings.output.dir: a site ignores this key"),
        ({"privacy.noise": "fast"}, r"settings.privacy.noise: no policy can change it"),
        ({"generator.path": "/x"}, r"settings.generator.path: no policy can change it"),
        ({"privacy.epsilon": 3}, r"settings.privacy.epsilon: say it by max_epsilon"),
        ({"data.task.channels": 1}, r"settings.data.task.channels: say it by --channels"),
        ({"optim.lr": "fast"}, r"settings.optim.lr=fast: Input should be a valid number"),
        ({"optim.lr": True}, r"settings.optim.lr=True: want a number"),
        ({"optim.lr": []}, r"settings.optim.lr: an empty list permits nothing"),
        ({"optim.lr": 1e20}, r"settings.optim.lr: 1e\+20 is outside 1e-08 to 1000, the widest that a policy may permit"),
        ({"optim.lr": {"max": 1e20}}, r"settings.optim.lr: 1e\+20 is outside"),
        ({"optim.lr": {"max": float("inf")}}, r"settings.optim.lr: inf is no finite number"),
        ({"optim.lr": {"most": 1}}, r"settings.optim.lr=.*: want {min: ..., max: ...}"),
        ({"optim.lr": {"min": 2, "max": 1}}, r"settings.optim.lr: min=2 is above max=1"),
        ({"privacy.clip.gradient": 1e-30}, r"settings.privacy.clip.gradient=1e-30: .* greater than or equal to 0.001"),
        ({"privacy.max_physical_batch": 10**9}, r"outside 1 to 4096"),
        ({"optim.name": "adam"}, r"settings.optim.name=adam: Input should be 'sgd'"),
        ({"optim.lr": 1, "optim": {"lr": 2}}, r"settings.optim.lr is said twice"),
        ("loop", "settings"),
    ],
)
def test_settings_that_make_no_sense_are_told_with_file_and_key(tmp_path: Path, settings: Any, told: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(LEAST | {"settings": settings}))
    with pytest.raises(UserError, match=told) as error:
        load_policy(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)
def test_what_is_installed_is_taken_by_default(leaf: Any) -> None:
    if leaf.mark.who != "ignored" and not leaf.field.is_required() and leaf.key != "generator.name":
        assert by_default(leaf).takes(leaf.default)


NUMBERS = {key: leaf for key, leaf in LEAVES.items() if leaf.mark.low is not None and not leaf.mark.owner}


@example("optim.betas", 0.8, True)
@given(st.sampled_from(sorted(NUMBERS)), st.floats(allow_nan=True, allow_infinity=True), st.booleans())
def test_no_value_beyond_what_owner_or_default_say_is_granted(key: str, value: float, agreed: bool) -> None:
    """Whatever is asked, and whether the owner adds what to_agree tells or not: what is taken is within the mark's reach."""
    asked = [value, 0.5] if key == "optim.betas" else value
    request = Request({**Request.of(from_mapping(CONFIG)).values, key: asked})
    policy = Policy.model_validate(LEAST)
    if agreed:
        policy = Policy.model_validate(LEAST | {"settings": to_agree(policy, request)})
    (row,) = [row for row in table(policy, request) if row.key == key]
    mark = NUMBERS[key].mark
    assert mark.low is not None
    assert mark.high is not None
    if row.verdict == "taken":
        reach = 100.0 if mark.who == "server" else 1.0
        assert mark.low / reach <= value <= mark.high * reach
    if not agreed and mark.who == "site":
        assert (row.verdict == "taken") == (value == NUMBERS[key].default)


def test_what_a_server_wrote_cannot_forge_a_line_of_the_log() -> None:
    for name in ("a:\n2026-01-01 INFO mpssl_fed.daemon: run x round 1 answered", "a:\x1b[2J", "a:\u202egnp", "a:\udce9", "a:\r"):
        config = from_mapping({"model": {"name": name}, "privacy": {"epsilon": 1, "public_size": 100}})
        (refusal,) = (one for one in decide(Policy.model_validate(LEAST), Request.of(config)).refusals if one.code == "path")
        assert refusal.text.isprintable()
        assert "model.name=a:" in refusal.text
