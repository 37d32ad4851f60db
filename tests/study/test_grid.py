"""From a study file to checked cells, and every mistake refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.config import config_folder, from_mapping
from mpssl_fed.config.learning import BUNDLES
from mpssl_fed.errors import UserError
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.cell_key import cell_key
from mpssl_fed.study.grid import find_study, load_study
from tests.study.runs import TINY, plan_of, write_study

GRID = {"method.name": ["base", "vic-gssl"], "method.augment": ["weak", "half-strong"]}


def test_all_combinations_with_seeds_before_breadth(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid=GRID, seeds=3)
    assert [cell.seed for cell in plan.cells] == [0] * 4 + [1] * 4 + [2] * 4
    assert [cell.label for cell in plan.cells[:4]] == [
        "base · weak", "base · half-strong", "vic-gssl · weak", "vic-gssl · half-strong",
    ]  # fmt: skip
    assert len({cell.id for cell in plan.cells}) == 12


def test_a_cell_is_the_config_a_user_would_write(tmp_path: Path) -> None:
    cell = plan_of(
        tmp_path, grid={"method.name": ["vic-gssl"], "data.partition.alpha": [0.2], "data.partition.name": ["dirichlet"]}, seeds=[7]
    ).cells[0]
    wanted = from_mapping(TINY | {
        "seed": 7, "method": {"name": "vic-gssl"}, "data": {**TINY["data"], "partition": {"name": "dirichlet", "alpha": 0.2}},
    })  # fmt: skip
    assert cell.config == wanted
    assert cell.sha256 == cell_key(wanted, METHOD_VERSION)
    assert cell.sha256.startswith(cell.id)


def test_union_of_grids_holds_a_shared_cell_once(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grids=[GRID, {"method.name": ["base", "mp-ssl"], "optim.lr": [0.003, 0.01]}], seeds=1)
    arms = [tuple(cell.settings.values()) for cell in plan.cells]
    assert plan.keys == ("method.name", "method.augment", "optim.lr")
    assert len(arms) == len(set(arms)) == 7  # base, weak and 0.003 stand in both


def test_variants_set_keys_together_and_cross_with_the_grid(tmp_path: Path) -> None:
    variants = {"slow": {"optim.name": "sgd", "optim.lr": 0.01}, "fast": {"optim.name": "adamw"}}
    plan = plan_of(tmp_path, variants=variants, grid={"method.name": ["base", "mp-ssl"]}, seeds=1)
    assert [cell.settings for cell in plan.cells] == [
        {"variant": name, "method.name": method} for name in ("slow", "fast") for method in ("base", "mp-ssl")
    ]
    assert [cell.config.optim.name for cell in plan.cells] == ["sgd", "sgd", "adamw", "adamw"]


def test_a_grid_may_pick_variants(tmp_path: Path) -> None:
    variants = {"plain": {}, "anchor": {"federation.anchor.weight": 1.0}}
    plan = plan_of(
        tmp_path, variants=variants, grids=[{"method.name": ["base"], "variant": ["plain"]}, {"method.name": ["mp-ssl"]}], seeds=1
    )
    assert [(c.settings["method.name"], c.settings["variant"]) for c in plan.cells] == [
        ("base", "plain"),
        ("mp-ssl", "plain"),
        ("mp-ssl", "anchor"),
    ]


def test_bundles_of_options_are_values_too(tmp_path: Path) -> None:
    splits = [{"name": "iid"}, {"name": "dirichlet", "alpha": 0.3}]
    plan = plan_of(tmp_path, grid={"data.partition": splits}, seeds=1, baseline={"data.partition": {"name": "iid"}})
    assert [cell.label for cell in plan.cells] == ["iid", "dirichlet alpha=0.3 min_per_site=1"]


def test_an_override_fixes_a_key_or_replaces_the_values_of_a_grid_key(tmp_path: Path) -> None:
    file = write_study(tmp_path, grid=GRID, seeds=3)
    plan = load_study(file, ["federation.rounds=7", "method.augment=weak", "seeds=[4]", "workers=5"])
    assert [cell.label for cell in plan.cells] == ["base · weak", "vic-gssl · weak"]
    assert {cell.config.federation.rounds for cell in plan.cells} == {7}
    assert (plan.cells[0].seed, plan.study.workers) == (4, 5)


def test_the_written_study_gives_the_same_cells_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid=GRID, seeds=2, baseline={"method.name": "base"}, output="runs/x")
    (tmp_path / "again.yaml").write_text(plan.to_yaml())
    again = load_study(tmp_path / "again.yaml")
    assert again == plan


def test_show_names_one_cell(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid=GRID, seeds=[3, 4], show={"method.name": "vic-gssl", "method.augment": "half-strong"})
    shown = plan.shown()
    assert shown is not None
    assert (shown.label, shown.seed) == ("vic-gssl · half-strong", 3)


def test_the_demo_is_the_promised_grid() -> None:
    plan = load_study("demo")
    assert len(plan.cells) == 12
    assert [cell.config.method.name for cell in plan.cells[:4]] == ["base", "mp-ssl", "federated-gssl", "generator-only"]
    assert plan.folder() == Path("runs/demo")
    assert plan.study.show == "best"


def test_every_shipped_study_is_valid() -> None:
    files = sorted((config_folder() / "studies").glob("*.yaml"))
    assert files
    for file in files:
        assert load_study(file).cells


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"grid": GRID, "sedes": 3}, "unknown study key 'sedes'. Did you mean 'seeds'?"),
    ({}, "the grid is empty"),
    ({"grid": {}}, "the grid is empty"),
    ({"grid": {"method.name": []}}, "the grid is empty: key 'method.name' has no value"),
    ({"grid": GRID, "grids": [GRID]}, "'grid' and 'grids' are both given"),
    ({"grid": {"method.nmae": ["base"]}}, "Did you mean 'method.name'?"),
    ({"grid": {"method.name": ["bse"]}}, "unknown method.name 'bse'. Did you mean 'base'?"),
    ({"grid": {"optim.lr": [0.1, -1]}}, "optim.lr=-1"),
    ({"grid": GRID, "seeds": 0}, "seeds=[]"),
    ({"grid": GRID, "seeds": [1, 1]}, "want distinct seeds"),
    ({"grid": GRID, "baseline": {"method.name": "p-ssl"}}, "baseline: no cell has p-ssl"),
    ({"grid": GRID, "baseline": {"method.nam": "base"}}, "'method.nam' is no key of the grid. Did you mean 'method.name'?"),
    ({"grid": GRID, "baseline": "fast"}, "'variant' is no key of the grid"),
    ({"grid": GRID, "show": {"method.name": "mp-ssl"}}, "show: no cell has mp-ssl"),
    ({"grid": GRID, "metric": "f1"}, "metric='f1'"),
    ({"variants": {"a": {"optim.lr": 0.1}, "b": {"optim.lr": 0.1}}}, "'a' and 'b' are the same config"),
    ({"variants": {"a": {"optim.r": 0.1}}}, "variants.a: unknown config key 'optim.r'"),
    ({"variants": {"a": {"optim.lr": 0.1}}, "grid": {"optim.lr": [1]}}, "stands both in the grid and in the variant 'a'"),
    ({"variants": {"a": {}}, "grid": {"variant": ["b"]}}, "unknown variant 'b'"),
    ({"grid": GRID, "base": "no-such-config"}, "config 'no-such-config': no such file"),
]


@pytest.mark.parametrize(("fields", "words"), MISTAKES)
def test_mistakes_are_refused_with_their_cure(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        plan_of(tmp_path, **fields)
    assert words in str(error.value)


def test_a_misspelt_override_or_study_is_refused(tmp_path: Path) -> None:
    file = write_study(tmp_path, grid=GRID)
    with pytest.raises(UserError, match=r"Did you mean 'federation\.rounds'"):
        load_study(file, ["federation.round=3"])
    with pytest.raises(UserError, match=r"a variant .* sets this key"):
        load_study(write_study(tmp_path, variants={"a": {"optim.lr": 0.1}}), ["optim.lr=1"])
    with pytest.raises(UserError, match="Did you mean 'demo'"):
        find_study("dmeo")
    with pytest.raises(UserError, match="no such file"):
        load_study(tmp_path / "none.yaml")


def test_an_override_with_a_list_is_a_new_axis(tmp_path: Path) -> None:
    file = write_study(tmp_path, grid={"method.name": ["base", "vic-gssl"]})
    plan = load_study(file, ["optim.lr=[0.01,0.02,0.03]", "seeds=1"])
    assert [cell.config.optim.lr for cell in plan.cells] == [0.01, 0.02, 0.03] * 2
    assert plan.keys == ("method.name", "optim.lr")
    assert load_study(file, ["optim.betas=[0.8,0.9]"]).cells[0].config.optim.betas == (0.8, 0.9)
    several = write_study(tmp_path / "several", grids=[{"method.name": ["base"]}, {"method.name": ["vic-gssl"]}])
    assert len(load_study(several, ["optim.lr=[0.01,0.02]", "seeds=1"]).cells) == 4
    variants = write_study(tmp_path / "variants", variants={"a": {"method.name": "base"}, "b": {"method.name": "vic-gssl"}})
    assert len(load_study(variants, ["optim.lr=[0.01,0.02]", "seeds=1"]).cells) == 4


def test_a_shipped_study_has_two_names_that_lead_to_it() -> None:
    """The second is the one that `simulate` sends to, and under which the configs are listed."""
    assert load_study("studies/demo") == load_study("demo")
    with pytest.raises(UserError, match=r"study 'studies/dmo': no such file. Did you mean"):
        load_study("studies/dmo")


def test_controls_stand_in_one_grid_with_the_methods(tmp_path: Path) -> None:
    """What the base sets for the methods gives way to what a control is; what the grid itself sets does not."""
    base = {
        **TINY,
        "model": {"name": "resnet18"},
        "federation": {"sites": 2, "strategy": {"name": "fedavgm"}},
        "warm_start": {"part": "none"},
    }
    names = ["base", *BUNDLES]
    plan = plan_of(tmp_path, base=base, grid={"method.name": names}, seeds=1)
    got = {cell.config.method.name: cell.config for cell in plan.cells}
    assert list(got) == names
    assert {name: config.model.name for name, config in got.items()} == {
        "base": "resnet18", "base-train-only": "resnet18", "generator-only": "resnet18", "fedprox": "resnet18",
        "linear-random": "random", "linear-pixels": "pixels", "linear-hog": "hog", "federated-gssl": "resnet18",
    }  # fmt: skip
    assert {name: config.federation.strategy.name for name, config in got.items()} == {
        name: "fedprox" if name == "fedprox" else "fedavgm" for name in names
    }
    assert got["generator-only"].warm_start.part == "both"
    assert (got["federated-gssl"].warm_start.part, got["federated-gssl"].federation.anchor.weight) == ("auto", 0.3)
    with pytest.raises(UserError, match=r"method.name=linear-hog means model.name=hog, but model.name=resnet18 is given"):
        plan_of(tmp_path, grid={"method.name": ["linear-hog"], "model.name": ["resnet18"]})
