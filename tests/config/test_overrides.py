"""``key.path=value``: text is taken literally, a new name drops what belonged to the old one, blame falls where it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mpssl_fed import config as configs
from mpssl_fed.config import Config, Override
from mpssl_fed.config.learning import BUNDLES, METHODS
from mpssl_fed.errors import UserError

NASTY = [
    "scans #2", "a: b", " leading and trailing ", "2024-01-01", "2024-02-30", "1", "1e5", "0x10", "007", "true", "off", "NULL",
    "~", "~x", "[a]", "[unclosed", "{a: 1}", "- a", "*x", "&x", "!tag", "%", "@x", "`x`", "|", ">", "a=b=c",
    "'", '"', "it's", "'a' and 'b'",
    "dir/with\ttab", "C:\\new", "käse", "日本", "\udcff", "a\nb", "#", "--flag", "$HOME", "*", "?",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
def test_a_path_survives_as_it_was_typed(text: str, tmp_path: Path) -> None:
    for key in ("data.root", "output.dir", "generator.path", "model.pretrained"):
        fields = configs.override({}, [f"{key}={text}"])
        section, name = key.split(".")
        assert fields == {section: {name: text}}
        config = configs.from_mapping(fields)
        assert getattr(getattr(config, section), name) == text
        file = tmp_path / "again.yaml"
        file.write_text(config.to_yaml())
        assert configs.load(file) == config
        assert configs.from_json(config.canonical_json()).sha256() == config.sha256()


def test_null_alone_is_null_and_quotes_make_it_a_name() -> None:
    def root(text: str) -> Any:
        return configs.override({"data": {"root": "x"}}, [f"data.root={text}"])["data"]["root"]

    assert root("null") is None
    assert root("") is None
    assert root("'null'") == root('"null"') == "null"
    assert root("./null") == "./null"
    assert root('"a\\tb"') == "a\tb"
    assert root("'it''s'") == "it's"
    assert configs.override({}, ["data.name="])["data"]["name"] == ""  # a key that takes no null


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("federation.rounds=3", 3), ("federation.rounds=0x3", 3), ("optim.lr=1e-3", 0.001),
        ("optim.betas=[0.8, 0.95]", [0.8, 0.95]),
        ("data.labels_per_class=null", None), ("data.labels_per_class=~", None), ("data.download=true", True),
        ("data.task={classes: [a, b]}", {"classes": ["a", "b"]}), ("method.options.depth=3", 3),
        ("warm_start.class_map={'7': seven}", {"7": "seven"}),
    ],
)  # fmt: skip
def test_every_other_key_takes_yaml(word: str, value: Any) -> None:
    level: Any = configs.override({}, [word])
    for part in word.partition("=")[0].split("."):
        level = level[part]
    assert level == value


def test_an_override_object_is_taken_as_it_is() -> None:
    one = Override("output.dir", Path("exp #2"), "--output exp #2")
    assert configs.load("demo", [one]).output.dir == "exp #2"
    with pytest.raises(UserError, match=r"^--rounds 0: Input should be greater than or equal to 1$"):
        configs.load("demo", [Override("federation.rounds", 0, "--rounds 0")])


def test_a_new_name_drops_the_options_of_the_old_one() -> None:
    file = {
        "data": {"partition": {"name": "dirichlet", "alpha": 0.3}},
        "federation": {"strategy": {"name": "fedadam", "tau": 0.01}},
    }
    words = ["data.partition.name=pathological", "federation.strategy.name=fedprox", "federation.strategy.norm_bound=2"]
    config = configs.from_mapping(configs.override(file, words))
    assert (config.data.partition.classes_per_site, config.data.partition.alpha) == (2, None)
    assert (config.federation.strategy.proximal_mu, config.federation.strategy.norm_bound) == (0.01, 2)
    same = configs.override(file, ["data.partition.name=dirichlet"])
    assert same["data"]["partition"]["alpha"] == 0.3
    with pytest.raises(UserError, match=r"'alpha' belongs to dirichlet"):  # what is itself asked for is not dropped
        configs.from_mapping(configs.override(file, ["data.partition.name=iid", "data.partition.alpha=1"]))


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("former", ["fedprox", "generator-only", "linear-hog", "federated-gssl", "mp-ssl+", None])
def test_any_method_may_take_the_place_of_any_other_in_a_resolved_config(former: str | None, name: str) -> None:
    method = {"name": former} if former else {"name": None, "source": "random", "loss": "vicreg"}
    resolved = configs.from_mapping({"method": method}).dump()
    config = configs.from_mapping(configs.override(resolved, [f"method.name={name}"]))
    fresh = configs.from_mapping({"method": {"name": name}})
    assert (config.method.source, config.method.loss) == (fresh.method.source, fresh.method.loss)
    if former in BUNDLES:
        for section in ("model", "warm_start", "federation"):
            assert getattr(config, section) == getattr(fresh, section)


def test_files_of_the_former_generator_and_model_go_and_those_that_wait_for_a_name_stay() -> None:
    file = {"generator": {"name": "folder", "path": "x"}, "model": {"name": "resnet18", "pretrained": "w.pth"}}
    changed = configs.override(file, ["generator.name=glyphs-letters", "model.name=resnet50"])
    assert changed == {"generator": {"name": "glyphs-letters"}, "model": {"name": "resnet50"}}
    unnamed = configs.override({"model": {"pretrained": "w.pth"}}, ["model.name=resnet18"])
    assert unnamed["model"]["pretrained"] == "w.pth"
    both = configs.override(file, ["generator.name=biggan", "generator.path=y"])
    assert both["generator"] == {"name": "biggan", "path": "y"}


@pytest.mark.parametrize(
    ("word", "suggested"),
    [
        ("rounds=3", "federation.rounds"), ("labels_per_class=1", "data.labels_per_class"),
        ("lables_per_class=1", "data.labels_per_class"),
        ("alpha=1", "data.partition.alpha"), ("federation.roundss=3", "rounds"), ("data.task={classes: [a, b], sise: 1}", "size"),
        ("data.rounds=3", "federation.rounds"),
    ],
)  # fmt: skip
def test_a_key_in_the_wrong_place_is_sent_to_the_right_one(word: str, suggested: str) -> None:
    with pytest.raises(UserError, match=rf"^override '.*': unknown key '.*'. Did you mean '{suggested}'"):
        configs.load("demo", [word])


def test_unknown_keys_of_a_task_are_told_the_keys_of_a_task() -> None:
    with pytest.raises(UserError, match=r"Valid here: classes, size, stored_size, channels, flip"):
        configs.load("demo", ["data.task={classes: [a, b], foo: 1}"])


def test_blame_falls_on_the_override_or_on_the_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"federation": {"sites": 3}, "optim": {"lr": -1}}))
    with pytest.raises(UserError, match=rf"^{file}: optim.lr=-1: "):
        configs.load(file, ["federation.rounds=3"])
    with pytest.raises(UserError, match=r"^override 'federation.rounds=0': Input"):
        configs.load("demo", ["federation.rounds=0"])
    with pytest.raises(UserError, match=r"own.yaml with federation.min_sites=9: federation=.*min_sites=9 is more than sites=3"):
        configs.load(file, ["optim.lr=1", "federation.min_sites=9"])
    with pytest.raises(UserError, match=r"^override 'data=3': "):
        configs.load("demo", ["data=3"])


@pytest.mark.parametrize("word", ["a..b=1", ".a=1", "a.=1", "=", "x" * 500])
def test_a_word_that_is_no_override(word: str) -> None:
    with pytest.raises(UserError, match=r"want key.path=value") as error:
        configs.load("demo", [word])
    assert len(str(error.value)) < 320


@pytest.mark.parametrize("key", ["data.partition.name", "method.name", "federation.strategy.name", "data.name", "method.loss"])
@pytest.mark.parametrize("value", [["a"], {"a": 1}, [["a"]], 3, True, 1.5, []])
def test_a_name_of_another_type_is_refused(key: str, value: Any) -> None:
    fields: dict[str, Any] = {}
    level = fields
    *parents, leaf = key.split(".")
    for parent in parents:
        level = level.setdefault(parent, {})
    level[leaf] = value
    with pytest.raises(UserError, match=f"config: ({key}|method)=?"):
        configs.from_mapping(fields)


def test_a_study_file_is_sent_to_the_command_for_it() -> None:
    with pytest.raises(UserError, match=r"is a study file .it has 'grid'.*: mpssl-fed study studies/demo"):
        configs.load("studies/demo")
    assert isinstance(configs.load("demo"), Config)
