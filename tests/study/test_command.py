"""The command ``mpssl-fed study``."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mpssl_fed.cli import build
from mpssl_fed.errors import UserError
from mpssl_fed.study.grid import load_study
from tests.study.runs import png, write_study


def call(*words: str | Path) -> Result:
    """Call the command line and return what came of it."""
    return CliRunner().invoke(build(), ["study", *(str(word) for word in words)])


def test_dry_run_prints_the_plan_and_runs_nothing(tmp_path: Path) -> None:
    result = call("demo", "--dry-run", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    assert "12 cells: 4 arms x 3 seeds (0, 1, 2)" in result.output
    assert "federated-gssl" in result.output
    assert "0 finished already, 12 to run" in result.output
    assert not (tmp_path / "out").exists()


def test_an_override_narrows_the_grid() -> None:
    result = call("demo", "method.augment=weak", "seeds=1", "--dry-run")
    assert "4 cells: 4 arms x 1 seeds (0)" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "--executor", "rya"], "Did you mean 'ray'?"),
        (["demo", "methd.augment=weak"], "Did you mean 'method.augment'?"),
        (["dmo"], "no such file"),
        (["demo", "method.name=mp-ssl", "--dry-run"], "baseline: no cell has base"),
    ],
)
def test_bad_input_is_refused(words: list[str], said: str) -> None:
    error = call(*words).exception
    assert isinstance(error, UserError), error
    assert said in str(error)


def test_a_missing_table_is_refused_before_anything_runs(tmp_path: Path) -> None:
    file = write_study(tmp_path, grid={"method.name": ["base"]})
    error = call(file, "--from", tmp_path / "none.csv", "--output", tmp_path / "out").exception
    assert isinstance(error, UserError)
    assert "none.csv: cannot be read" in str(error)


def test_an_image_folder_is_estimated_from_its_files(tmp_path: Path) -> None:
    for part, counts in (("train", (5, 3)), ("test", (2, 2))):
        for name, count in zip("ab", counts, strict=True):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / part / name / f"{number}.png").write_bytes(png(number))
    words = [
        "demo",
        "--dry-run",
        "data.name=image-folder",
        "data.labels_per_class=1",
        "data.labels_over=site",
        "federation.sites=2",
    ]
    shown = call(*words, f"data.root={tmp_path}").output
    assert "–" not in shown
    assert "missing" not in shown
    short = call(*words, f"data.root={tmp_path}", "federation.sites=4", "data.partition.name=iid").exception
    assert isinstance(short, UserError)
    assert "has 3" in str(short)
    absent = call(*words, f"data.root={tmp_path / 'none'}").output
    assert f"missing: data.root {tmp_path / 'none'}\n" in absent
    assert "missing: data.root, the folder of the images" in call(*words).output


def test_a_config_of_one_run_is_sent_to_simulate(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("method: {name: base}\n")
    for name in (tmp_path / "own.yaml", "datasets/cifar10"):
        error = call(name, "--dry-run").exception
        assert isinstance(error, UserError)
        assert (
            f"is the config of one run{' (it has no grid, grids, variants, extends)' if name != 'datasets/cifar10' else ''}"
            in str(error)
        )
        assert f"mpssl-fed simulate {name}" in str(error)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seeds=100000000"], "override 'seeds=100000000': seeds=100000000: want at most 10,000 seeds"),
        (["seeds=9999", "optim.lr=[1,2]"], "more than 10,000 cells"),
        (["method.name=[[base]]"], "method.name"),
        (["data.root=a\0b"], "NUL"),
        (["workers=0"], "override 'workers=0': workers=0: Input should be greater than or equal to 1"),
        (["federation.rounds=0"], "override 'federation.rounds=0': Input should be greater"),
    ],
)
def test_overrides_are_blamed_and_bounded(words: list[str], said: str) -> None:
    error = call("demo", "--dry-run", *words).exception
    assert isinstance(error, UserError), error
    assert said in str(error)


def test_names_are_literal_and_lists_are_compared(tmp_path: Path) -> None:
    file = write_study(tmp_path, grid={"method.name": ["base"]}, seeds=1)
    plan = load_study(file, ["data.root=scans #2", "generator.name=[glyphs-digits,glyphs-letters]", "output=exp #3", "title=null"])
    assert {cell.config.data.root for cell in plan.cells} == {"scans #2"}
    assert [cell.config.generator.name for cell in plan.cells] == ["glyphs-digits", "glyphs-letters"]
    assert str(plan.folder()) == "exp #3"
    assert plan.study.title is None
