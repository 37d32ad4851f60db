"""When comparisons became primary: told where it was not before their seeds had run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mpssl_fed.cli import build
from mpssl_fed.errors import UserError
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.declared import DECLARED, declare, late_words, read_declared
from mpssl_fed.study.folder import STUDY_FILE, Outcome, cell_folder, finished_rows
from mpssl_fed.study.grid import Plan
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.results import FINISHED, Row, write_result
from tests.study.runs import plan_of, write_study

GRID = {"method.name": ["base", "vic-gssl", "naive-gssl"]}


def against_base(*names: str) -> list[dict[str, Any]]:
    """Return comparisons of methods with base."""
    return [{"arm": {"method.name": name}, "against": {"method.name": "base"}} for name in names]


def run(plan: Plan, output: Path, seeds: int = 9) -> dict[str, Row]:
    """Do as a run of the study: look, declare, and finish what is missing of the first ``seeds`` seeds."""
    before = finished_rows(plan, output)
    declare(plan, output, before)
    for cell in plan.cells:
        if cell.sha256 not in before and cell.seed < seeds:
            value = 0.5 + 0.1 * (cell.label == "vic-gssl") + 0.003 * ((7 * cell.seed + len(cell.label)) % 5)
            row = Row(cell.sha256, METHOD_VERSION, cell.seed, FINISHED, cell.settings, accuracy=value, loss=1 - value)
            write_result(cell_folder(output, cell) / "result.json", row)
    return finished_rows(plan, output)


def test_one_that_is_named_after_its_seeds_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = plan_of(tmp_path, grid=GRID, seeds=4, primary=against_base("naive-gssl"))
    run(first, out)
    assert late_words(first, out) == ""
    late = plan_of(tmp_path, grid=GRID, seeds=4, primary=against_base("vic-gssl"))
    rows = run(late, out)
    said = late_words(late, out)
    assert "vic-gssl against base was made a primary comparison when 4 of its seeds had finished" in said
    assert "naive-gssl against base was a primary comparison before, and is none now." in said
    (out / STUDY_FILE).write_text(late.to_yaml())
    assert said in write_study_report(Outcome(late, out, rows)).read_text()
    assert said in (out / "results.md").read_text()
    run(first, out)
    assert late_words(first, out).startswith("vic-gssl against base was a primary comparison")  # it was, for a while


def test_what_counts_is_whether_both_arms_had_a_result(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fewer = plan_of(tmp_path, grid={"method.name": ["base", "vic-gssl"]}, seeds=2)
    run(fewer, out)
    more = plan_of(tmp_path, grid=GRID, seeds=5, primary=against_base("naive-gssl"))  # a new arm, and what is asked of it
    run(more, out)
    assert late_words(more, out) == ""
    wider = plan_of(tmp_path, grid=GRID | {"method.augment": ["weak"]}, seeds=6, primary=against_base("naive-gssl"))
    run(wider, out)  # of another name since the grid has a key more, and of a seed more
    assert [one.finished for one in read_declared(out)] == [0]
    other = plan_of(tmp_path, grid=GRID, seeds=5, primary=against_base("naive-gssl"), metric="loss")
    run(other, out)
    assert "when 5 of its seeds had finished" in late_words(other, out)  # of accuracy it was declared, of loss it was not


def test_a_stop_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = plan_of(tmp_path, grid=GRID, seeds=4, primary=against_base("vic-gssl", "naive-gssl"))
    for seeds in (1, 2, 4):
        run(plan, out, seeds)
    assert late_words(plan, out) == ""
    turned = [{"arm": one["against"], "against": one["arm"]} for one in against_base("naive-gssl", "vic-gssl")]
    assert late_words(plan_of(tmp_path, grid=GRID, seeds=4, primary=turned), out) == ""


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    for content in (
        "[]",
        "{}",
        '{"primary": 3}',
        '{"primary": [{"metric": 1, "arms": ["a"], "finished": 0}]}',
        '{"primary": [[]]}',
    ):
        (tmp_path / DECLARED).write_text(content)
        with pytest.raises(UserError, match=f"{DECLARED}: .*damaged"):
            read_declared(tmp_path)


def test_the_command_says_it_even_after_overwriting(tmp_path: Path) -> None:
    """The same seeds give the same results again, so they have been seen."""
    fields: dict[str, Any] = {"grid": {"method.name": ["base"], "optim.lr": [0.1, 0.2]}, "seeds": 1}
    words = ["study", str(write_study(tmp_path, **fields)), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert CliRunner().invoke(build(), words).exit_code == 0
    assert not (tmp_path / "out" / DECLARED).exists()
    write_study(tmp_path, **fields, primary=[{"arm": {"optim.lr": 0.1}, "against": {"optim.lr": 0.2}}])
    result = CliRunner().invoke(build(), [*words, "--overwrite"])
    assert result.exit_code == 0, result.exception
    assert "lr 0.1 against lr 0.2 was made a primary comparison when 1 of its seeds had finished" in result.output
    assert json.loads((tmp_path / "out" / DECLARED).read_text())["primary"][0]["finished"] == 1
