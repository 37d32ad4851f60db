"""Whoever asks for privacy gets it, an error or a word: no config and no order of overrides turns it off in silence."""

from __future__ import annotations

import pytest

from mpssl_fed import config as configs
from mpssl_fed.errors import UserError

ASKED = {"privacy": {"epsilon": 2, "public_size": 1000}}


@pytest.mark.parametrize("section", [{"public_size": 1000}, {"delta": 1e-6}, {"unit": "subject"}, {"clip": {"gradient": 0.5}}])
def test_settings_of_privacy_without_a_budget_are_refused(section: dict[str, object]) -> None:
    key = next(iter(section))
    with pytest.raises(UserError, match=rf"{key} given, but neither privacy\.epsilon nor privacy\.scope.*privacy\.scope=off"):
        configs.from_mapping({"privacy": section})
    config = configs.from_mapping({"privacy": {**section, "scope": "off"}})
    assert f"no differential privacy: privacy.scope is off, so privacy.{key} has no effect" == config.privacy.idle()


def test_a_section_that_replaces_the_budget_is_refused() -> None:
    with pytest.raises(UserError, match=r"noise given, but neither privacy\.epsilon"):
        configs.from_mapping(configs.override(ASKED, ["privacy={noise: fast}"]))


@pytest.mark.parametrize("word", ["privacy.epsilon=", "privacy.epsilon= ", "federation.rounds=", "data.labels_per_class="])
def test_an_empty_value_is_no_null(word: str) -> None:
    with pytest.raises(UserError, match="the value is empty; is a variable of your shell not set"):
        configs.override(ASKED, [word])


def test_what_is_off_although_a_budget_is_given_is_told() -> None:
    told = configs.from_mapping({"privacy": {**ASKED["privacy"], "scope": "off"}}).privacy.idle()
    assert told.endswith("privacy.epsilon, privacy.public_size have no effect")
    assert not configs.from_mapping(ASKED).privacy.idle()
    assert not configs.from_mapping({}).privacy.idle()


def test_a_budget_over_a_config_that_spells_off_out_is_honoured() -> None:
    public = configs.from_mapping({}).dump()
    assert public["privacy"]["scope"] == "off"
    words = ["privacy.epsilon=2", "privacy.public_size=1000"]
    for order in (words, words[::-1]):
        assert configs.from_mapping(configs.override(public, order)).privacy.scope == "end-to-end"
    off = configs.from_mapping(configs.override(public, [*words, "privacy.scope=off"]))
    assert off.privacy.scope == "off"


@pytest.mark.parametrize(
    ("section", "key"),
    [("privacy", "epsilon"), ("federation", "rounds"), ("seed", ""), ("optim", "betas"), ("privacy", "public_size")],
)
@pytest.mark.parametrize("value", [True, False])
def test_true_is_no_number(section: str, key: str, value: bool) -> None:
    given = [value, 0.9] if key == "betas" else value
    with pytest.raises(UserError, match="want a number, not true or false"):
        configs.from_mapping({section: {**ASKED.get(section, {}), key: given} if key else given})
