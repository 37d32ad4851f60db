"""The command ``mpssl-fed study``."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mpssl_fed.cli import build
from mpssl_fed.errors import UserError
from tests.study.runs import write_study


def call(*words: str | Path) -> Result:
    """Call the command line and return what came of it."""
    return CliRunner().invoke(build(), ["study", *(str(word) for word in words)])


def test_dry_run_prints_the_plan_and_runs_nothing(tmp_path: Path) -> None:
    result = call("demo", "--dry-run", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    assert "18 cells: 6 arms x 3 seeds (0, 1, 2)" in result.output
    assert "half-strong · mp-ssl" in result.output
    assert "0 finished already, 18 to run" in result.output
    assert not (tmp_path / "out").exists()


def test_an_override_narrows_the_grid() -> None:
    result = call("demo", "method.augment=weak", "seeds=1", "--dry-run")
    assert "3 cells: 3 arms x 1 seeds (0)" in result.output


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
