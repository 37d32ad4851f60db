"""Files, overrides and names: what is read is what is meant, and what is misspelt is named with its nearest neighbour."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed import config as configs
from mpssl_fed.config import Config
from mpssl_fed.config.plain import parse
from mpssl_fed.errors import UserError

SHIPPED = sorted(file.relative_to(configs.config_folder()) for file in configs.config_folder().rglob("*.yaml"))
RUNS = [path for path in SHIPPED if path.parts[0] not in ("studies", "policies")]


def test_the_empty_config_is_the_paper_method_on_real_digits() -> None:
    config = configs.from_mapping({})
    assert (config.method.name, config.method.source, config.method.loss) == ("mp-ssl", "meta-optimised", "scr")
    assert config.data.name == "mnist-5k"
    assert not config.privacy.on


@pytest.mark.parametrize("path", RUNS, ids=str)
def test_every_shipped_config_loads(path: Path) -> None:
    config = configs.load(configs.config_folder() / path)
    assert configs.load(f"configs/{path}") == configs.load(str(path.with_suffix(""))) == config
    assert configs.from_json(config.canonical_json()).sha256() == config.sha256()


def test_shipped_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert configs.find("demo") == configs.config_folder() / "demo.yaml"
    Path("demo").write_text("seed: 7")
    assert configs.load("demo").seed == 7


def test_a_missing_file_lists_what_ships() -> None:
    with pytest.raises(UserError, match=r"config 'demmo.yaml': no such file. Did you mean 'demo'\? Shipped: .*datasets/cifar10"):
        configs.load("demmo.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- a\n- b", "holds list, want a mapping"),
        ("just words", "holds str, want a mapping"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_files_that_are_no_config(content: str | bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"{file}: .*{message}"):
        configs.load(file)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("# nothing\n")
    assert configs.load(tmp_path / "own.yaml") == configs.from_mapping({})


@pytest.mark.parametrize(
    ("key", "neighbour"),
    [
        ("sed", "seed"),
        ("data.labels_per_clas", "labels_per_class"),
        ("data.partition.alfa", "alpha"),
        ("method.lamda", "lambda"),
        ("method.gap.wieght", "weight"),
        ("federation.strategy.proximal", "proximal_mu"),
        ("privacy.clip.gradiant", "gradient"),
        ("optim.learning_rate", None),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, neighbour: str | None) -> None:
    with pytest.raises(UserError) as error:
        configs.from_mapping(configs.override({}, [f"{key}=1"]), "own.yaml")
    text = str(error.value)
    assert text.startswith(f"own.yaml: unknown key '{key}'.")
    assert ("Did you mean" in text) == (neighbour is not None)
    assert neighbour is None or f"Did you mean '{neighbour}'?" in text
    assert "Valid here: " in text


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(UserError) as error:
        configs.from_mapping({"sed": 1, "federation": {"rounds": 0}, "optim": {"lr": "fast"}})
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("federation.rounds=0", "greater than or equal to 1"),
        ("federation.rounds=2.5", "valid integer"),
        ("federation.rounds=many", "valid integer"),
        ("federation.fraction=1.5", "less than or equal to 1"),
        ("optim.lr=-1", "greater than 0"),
        ("optim.lr=.inf", "finite"),
        ("optim.lr=.nan", "finite"),
        ("optim.betas=[0.9]", "Field required|at least 2"),
        ("optim.betas=[0.9, 1.0]", r"want two numbers in \[0, 1\)"),
        ("optim.name=adam", "'sgd', 'momentum' or 'adamw'"),
        ("runtime.device=gpu", "'auto', 'cpu', 'cuda' or 'mps'"),
        ("data=mnist-5k", "valid dictionary|instance of"),
        ("data.download=perhaps", "valid boolean"),
        ("seed=-1", "greater than or equal to 0"),
        ("seed=null", "valid integer"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(override: str, reason: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(UserError, match=rf"(own\.yaml|override '{key}=.*'): {key}.*({reason})"):
        configs.from_mapping(configs.override({}, [override]), "own.yaml")


def test_overrides_are_yaml_and_the_last_one_counts() -> None:
    words = ["seed=1", "seed=2", "method.lambda=0.5", "data.root=null", "data.name='123'", "optim.betas=[0.8, 0.95]"]
    config = configs.from_mapping(configs.override({"data": {"root": "x"}}, words))
    assert (config.seed, config.method.lambda_, config.data.root, config.data.name) == (2, 0.5, None, "123")
    assert config.optim.betas == (0.8, 0.95)
    assert configs.from_mapping(configs.override({}, ["output.dir=a=b"])).output.dir == "a=b"


def test_an_override_leaves_its_argument_alone() -> None:
    fields = {"data": {"partition": {"name": "iid"}}}
    assert configs.override(fields, ["data.partition.name=quantity"]) == {"data": {"partition": {"name": "quantity"}}}
    assert fields == {"data": {"partition": {"name": "iid"}}}


@pytest.mark.parametrize("word", ["seed", "=3", ""])
def test_an_override_without_key_or_value(word: str) -> None:
    with pytest.raises(UserError, match=rf"override '{word}': want key.path=value"):
        configs.override({}, [word])


def test_an_override_below_a_value_and_one_that_is_no_yaml() -> None:
    with pytest.raises(UserError, match=r"override 'seed\.x=1': 'seed' is a value, not a section"):
        configs.override({"seed": 1}, ["seed.x=1"])
    with pytest.raises(UserError, match=r"override 'seed=.1': the value: not valid YAML: .*expected"):
        configs.override({}, ["seed=[1"])


TEXT = st.text(st.characters(exclude_characters="\0"), max_size=20)
SECTIONS = {
    "seed": st.integers(0, 2**62),
    "data": st.fixed_dictionaries({}, optional={"labels_per_class": st.none() | st.integers(1, 99), "size": st.integers(8, 1024)}),
    "method": st.sampled_from(sorted(configs.METHODS)).map(lambda name: {"name": name})
    | st.fixed_dictionaries({"source": st.just("random"), "loss": st.sampled_from(["scr", "vicreg"]), "lambda": st.floats(0, 1e3)}),
    "optim": st.fixed_dictionaries({}, optional={"lr": st.floats(1e-9, 10), "betas": st.tuples(*[st.floats(0, 0.999)] * 2)}),
    "generator": st.fixed_dictionaries({"path": st.none() | TEXT}),
    "federation": st.fixed_dictionaries({"strategy": st.sampled_from(["fedavg", "fedprox", "fedadam"]).map(lambda n: {"name": n})}),
    "privacy": st.fixed_dictionaries({"epsilon": st.floats(0.01, 50), "public_size": st.integers(1, 9999)}),
    "output": st.fixed_dictionaries({"dir": TEXT}),
}


def agrees(fields: dict[str, Any]) -> bool:
    """Whether the method goes with the rest: it may name another strategy, or hold images out, which no private run does."""
    name, named = fields.get("method", {}).get("name"), fields.get("federation", {}).get("strategy", {}).get("name", "fedprox")
    return (name != "fedprox" or named == "fedprox") and not (name == "base-train-only" and "privacy" in fields)


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=SECTIONS).filter(agrees))  # type: ignore[arg-type]
def test_json_and_yaml_come_back_as_they_went(fields: dict[str, object]) -> None:
    config = configs.from_mapping(fields)
    text = config.canonical_json()
    again = configs.from_json(text)
    assert again.canonical_json() == text
    assert again.sha256() == config.sha256()
    assert again.model_copy(update={"output": config.output}) == config
    assert configs.from_mapping(parse(config.to_yaml(), "here")) == config
    assert configs.from_mapping(yaml.safe_load(config.to_yaml())) == config  # others read it as YAML 1.1


def test_where_and_by_which_engine_is_not_part_of_the_hash() -> None:
    def digest(*words: str) -> str:
        return configs.from_mapping(configs.override({}, words)).sha256()

    assert digest("output.dir=elsewhere", "federation.backend=ray") == digest()
    assert digest("seed=1") != digest()
    assert digest("method.lambda=1.0") == digest("method.lambda=1")


def test_a_config_is_frozen() -> None:
    config = configs.from_mapping({})
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    assert isinstance(config, Config)


@pytest.mark.parametrize(
    ("fields", "cure"),
    [({"privacy.epsilon": 2}, "privacy: {epsilon: ...}"), ({"privacy": {"clip.gradient": 2}}, "clip: {gradient: ...}")],
)
def test_the_dots_of_a_command_line_are_told_to_nest_in_a_file(fields: dict[str, object], cure: str) -> None:
    with pytest.raises(UserError, match="nested, so write " + re.escape(cure)):
        configs.from_mapping(fields)
