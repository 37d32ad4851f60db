"""A study that extends another: what it takes, what it replaces, and a part of a grid that is a part by its form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpssl_fed.errors import UserError
from mpssl_fed.study.grid import Plan, load_study
from tests.study.runs import TINY, write_study

FULL: dict[str, Any] = {
    "title": "All of it",
    "base": TINY | {"optim": {"lr": 0.01}},
    "variants": {"a": {"method.name": "base"}, "b": {"method.name": "vic-gssl"}},
    "grids": [
        {"data.labels_per_class": [1, 2, 4], "method.augment": ["weak", "half-strong"]},
        {"variant": ["a"], "data.partition": [{"name": "dirichlet", "alpha": 0.3}]},
    ],
    "seeds": 2,
    "baseline": "a",
}


def child(folder: Path, **fields: Any) -> Plan:
    """Write the full study and one that extends it, and return the plan of the second."""
    write_study(folder, **FULL)
    (folder / "part.yaml").write_text(yaml.safe_dump({"extends": "study-file"} | fields, sort_keys=False))
    return load_study(folder / "part.yaml")


def keys(plan: Plan) -> set[str]:
    """Return the keys of its cells."""
    return {cell.sha256 for cell in plan.cells}


def test_a_part_keeps_cells_of_the_full_grid(tmp_path: Path) -> None:
    keep = [
        {"variant": "a", "data.labels_per_class": [1, 4], "data.partition": {"name": "iid"}},
        {"data.labels_per_class": 2, "variant": "b"},
    ]
    part, full = child(tmp_path, keep=keep), load_study(tmp_path / "study-file.yaml")
    assert [(cell.settings["variant"], cell.settings["data.labels_per_class"]) for cell in part.first if cell.seed == 0] == [
        ("a", 1), ("a", 1), ("a", 4), ("a", 4), ("b", 2), ("b", 2),
    ]  # fmt: skip
    assert keys(part) < keys(full)
    assert part.columns == ("variant", "data.labels_per_class", "method.augment")  # the split is one and the same
    assert part.name == "part"
    (tmp_path / "again.yaml").write_text(part.to_yaml())
    assert load_study(tmp_path / "again.yaml") == part


def test_an_override_of_a_key_takes_the_place_of_what_is_kept_of_it(tmp_path: Path) -> None:
    part = child(tmp_path, keep=[{"variant": "b", "data.labels_per_class": 1, "method.augment": "weak"}], baseline=None)
    assert len(part.arms()) == 1
    wide = load_study(tmp_path / "part.yaml", ["data.labels_per_class=[1,3,5]"])
    assert sorted(cell.settings["data.labels_per_class"] for cell in wide.cells if cell.seed == 0) == [1, 3, 5]
    assert {cell.settings["method.augment"] for cell in wide.cells} == {"weak"}


def test_own_keys_replace_and_base_and_variants_are_joined(tmp_path: Path) -> None:
    own = child(tmp_path, title="Mine", variants={"c": {"method.name": "naive-gssl"}}, base={"data": {"test_limit": 20}}, seeds=1)
    assert (own.study.title, own.study.baseline, len({cell.seed for cell in own.cells})) == ("Mine", [{"variant": "a"}], 1)
    assert {cell.settings["variant"] for cell in own.cells} == {"a", "b", "c"}
    config = own.cells[0].config
    assert (config.data.test_limit, config.optim.lr, config.model.name) == (20, 0.01, "pixels")
    grid = child(tmp_path / "grid", grid={"optim.lr": [0.1, 0.2]})
    assert sorted({(cell.settings["variant"], cell.settings["optim.lr"]) for cell in grid.cells}) == [
        (variant, lr) for variant in "ab" for lr in (0.1, 0.2)
    ]


def test_a_study_may_extend_one_that_extends_one(tmp_path: Path) -> None:
    child(tmp_path, keep=[{"variant": "a"}], baseline=None)
    (tmp_path / "small.yaml").write_text("extends: part\nkeep: [{variant: b, method.augment: weak, data.labels_per_class: 4}]\n")
    assert [cell.settings["variant"] for cell in load_study(tmp_path / "small.yaml").cells] == ["b", "b"]
    (tmp_path / "shipped.yaml").write_text("extends: demo\nseeds: 1\n")
    assert load_study(tmp_path / "shipped.yaml").name == "shipped"
    assert load_study(tmp_path / "shipped.yaml").folder() == Path("runs/shipped")  # and not the demo's own
    assert keys(load_study(tmp_path / "shipped.yaml")) < keys(load_study("demo"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"keep": [{"variant": "d"}]}, "keep: no cell has d"),
        ({"keep": [{"variant": ["a", "d"]}]}, "keep: no cell has d"),
        ({"keep": [{"method.augmnt": "weak"}]}, "Did you mean 'method.augment'?"),
        ({"keep": [{"variant": "a", "data.labels_per_class": [1, 3]}]}, "keep: no cell has a · labels per class 3"),
        ({"keep": [{"variant": "b"}]}, "baseline: no cell has a"),
        ({"extends": "study-fil"}, "no such file"),
        ({"extends": ["study-file"]}, "want one study"),
        ({"extends": "part"}, "a study cannot extend itself: part.yaml extends part.yaml"),
    ],
)
def test_mistakes_are_refused_with_their_cure(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        child(tmp_path, **fields)


def test_faults_of_the_extended_study_are_laid_to_it(tmp_path: Path) -> None:
    write_study(tmp_path, **FULL, sedes=3)
    (tmp_path / "part.yaml").write_text("extends: study-file\ntitle: 3\n")
    with pytest.raises(UserError, match=r"^\S*/study-file.yaml: unknown study key 'sedes'. Did you mean 'seeds'"):
        load_study(tmp_path / "part.yaml")
    write_study(tmp_path, **FULL | {"base": {"optim": {"rl": 1}}})
    with pytest.raises(UserError, match=r"^\S*/part.yaml \(extends \S*/study-file.yaml\), cell .*: unknown key 'optim.rl'"):
        load_study(tmp_path / "part.yaml", ["title=x"])
    (tmp_path / "config.yaml").write_text("method: {name: base}\n")
    (tmp_path / "part.yaml").write_text("extends: config\n")
    with pytest.raises(UserError, match=r"^\S*/config.yaml: is the config of one run"):
        load_study(tmp_path / "part.yaml")


def test_a_chain_of_studies_ends(tmp_path: Path) -> None:
    """In a circle of three, and in one that is too long to be meant."""
    for one, other in ("ab", "bc", "ca"):
        (tmp_path / f"{one}.yaml").write_text(f"extends: {other}\n")
    with pytest.raises(UserError, match=r"c.yaml: extends=a: a study cannot extend itself: a.yaml extends b.yaml extends c.yaml"):
        load_study(tmp_path / "a.yaml")
    for number in range(30):
        (tmp_path / f"{number}.yaml").write_text(f"extends: '{number + 1}'\n")
    with pytest.raises(UserError, match="20 studies extend one another"):
        load_study(tmp_path / "0.yaml")


def test_where_the_settings_come_from_has_one_answer(tmp_path: Path) -> None:
    own = child(tmp_path, untuned="They are guesses.")
    assert own.study.untuned == "They are guesses."
    (tmp_path / "grandchild.yaml").write_text("extends: part\ntuned: benchmarks/results/tuning.csv\n")
    assert load_study(tmp_path / "grandchild.yaml").study.untuned is None


def test_the_shipped_parts_are_parts() -> None:
    """By ``keep``, so that what was run of them counts when the whole is."""
    for part, full in (
        ("methods-federated-half-strong", "methods-federated"),
        ("privacy-utility-mnist", "privacy-utility"),
        ("privacy-utility-fashion", "privacy-utility"),
    ):
        of_part, of_full = load_study(part), load_study(full)
        assert keys(of_part) < keys(of_full)
        assert of_part.study.grids == of_full.study.grids
