"""Result rows: from a run directory, to a table and back."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.analysis import analyse
from mpssl_fed.study.folder import STUDY_FILE, Outcome
from mpssl_fed.study.measured import completed, failed_row, row_of_run
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.result_table import read_csv, write_csv
from mpssl_fed.study.results import read_result, write_result
from tests.study.runs import plan_of, write_run

GRID = {"method.name": ["base", "vic-gssl"]}


def test_row_of_a_run_by_hand(tmp_path: Path) -> None:
    cell = plan_of(tmp_path, grid=GRID).cells[1]
    folder = write_run(tmp_path / "run", [0.1, 0.5, 0.8, 0.7], sites=3)
    row = row_of_run(cell, folder, 1, cpu_seconds=2.5)
    assert (row.accuracy, row.best, row.seed, row.finished) == (0.7, 0.8, 0, True)
    assert row.loss == pytest.approx(1.0)
    assert row.steps == (3 + 2 + 3) * 2  # one reply of round 2 was left out; the study takes 2 steps a round
    assert row.generator_images == 3 * 96
    assert (row.seconds, row.seconds_train, row.seconds_generate, row.cpu_seconds) == (6.0, 4.0, 1.0, 2.5)


def test_a_row_holds_curve_and_diagnosis(tmp_path: Path) -> None:
    cell = plan_of(tmp_path, grid=GRID).cells[1]
    folder = write_run(tmp_path / "run", [0.1, 0.6, 0.9])
    plain = row_of_run(cell, folder, 1)
    assert plain.rounds == [(0, 0.1, 1.5), (1, 0.6, 3.0), (2, 0.9, 4.5)]
    assert (plain.seconds_to(0.6), plain.seconds_to(0.61), plain.seconds_to(0.95)) == (3.0, 4.5, None)
    assert (plain.diagnosis, plain.diagnosed) == (None, {})
    (folder / "diagnosis.json").write_text(
        json.dumps({"images": 9, "synthetic": {"gap": 0.25, "rank": 12.5}, "real": {"gap": 9.0}})
    )
    assert row_of_run(cell, folder, 1).diagnosed == {"gap": 0.25, "rank": 12.5}
    older = dataclasses.replace(plain, curve=None)
    assert completed(older, folder) == row_of_run(cell, folder, 1)  # a row from before these columns, beside its run directory
    assert completed(older, tmp_path / "none") == older


def test_a_run_that_diverged_has_no_loss_of_an_earlier_round(tmp_path: Path) -> None:
    """Its study compares losses of last rounds; the arm has a seed less, and the page says so."""
    plan = plan_of(tmp_path, grid=GRID, seeds=3, metric="loss", baseline={"method.name": "base"})
    rows = {}
    for number, cell in enumerate(plan.cells):
        folder = write_run(tmp_path / "cells" / cell.id, [0.1, 0.5 + 0.01 * number, 0.6])
        if number == 1:
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            lines[-1] = json.dumps(json.loads(lines[-1]) | {"test_loss": None})  # as a round whose loss is not finite is written
            (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        rows[cell.sha256] = row_of_run(cell, folder, METHOD_VERSION)
    assert [row.loss is None for row in rows.values()] == [False, True, False, False, False, False]
    outcome = Outcome(plan, tmp_path, rows)
    assert (len(outcome.finished), [arm.label for arm in analyse(outcome).arms]) == (5, ["base", "vic-gssl"])
    assert [arm.mean.n for arm in analyse(outcome).arms if arm.mean is not None] == [3, 2]
    (tmp_path / STUDY_FILE).write_text(plan.to_yaml())
    page = write_study_report(outcome).read_text()
    assert "1 cell failed, see below" in page
    assert "no finite loss: it has diverged" in page
    assert len(read_csv(tmp_path / "results.csv", plan.cells, METHOD_VERSION)) == 6  # nothing is lost for other metrics


@pytest.mark.parametrize(("column", "value"), [("accuracy", "nan"), ("loss", "inf"), ("membership", "-inf"), ("steps", "1e3")])
def test_a_table_holds_finite_numbers(tmp_path: Path, column: str, value: str) -> None:
    """Of a NaN no test would find noise."""
    plan = plan_of(tmp_path, grid=GRID, seeds=1)
    write_csv(tmp_path / "results.csv", [row_of_run(plan.cells[0], write_run(tmp_path / "run", [0.1, 0.5]), 3)], plan.keys)
    with open(tmp_path / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    with open(tmp_path / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerow(lines[0] | {column: value})
    with pytest.raises(UserError, match="line 2"):
        read_csv(tmp_path / "results.csv", plan.cells, 3)


def test_results_survive_the_disk(tmp_path: Path) -> None:
    cell = plan_of(tmp_path, grid=GRID).cells[0]
    row = row_of_run(cell, write_run(tmp_path / "run", [0.1, 0.5]), 1)
    write_result(tmp_path / "result.json", row)
    assert read_result(tmp_path / "result.json") == row
    assert read_result(tmp_path / "none.json") is None


def test_table_and_back(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid=GRID, seeds=2)
    good = row_of_run(plan.cells[0], write_run(tmp_path / "run", [0.1, 0.5]), 3, peak_memory_mb=512.5)
    write_csv(tmp_path / "results.csv", [good, failed_row(plan.cells[1], 3, "no, it\nbroke")], plan.keys)
    with open(tmp_path / "results.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["method.name"] for line in lines] == ["base", "vic-gssl"]
    assert lines[1]["error"] == "no, it\nbroke"
    assert read_csv(tmp_path / "results.csv", plan.cells, 3) == {plan.cells[0].sha256: good}


def test_rows_of_another_method_version_or_config_do_not_count(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid=GRID)
    row = row_of_run(plan.cells[0], write_run(tmp_path / "run", [0.1, 0.5]), 3)
    write_csv(tmp_path / "results.csv", [row], plan.keys)
    assert read_csv(tmp_path / "results.csv", plan.cells, 4) == {}
    assert read_csv(tmp_path / "results.csv", plan_of(tmp_path, grid=GRID, seeds=[9]).cells, 3) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("accuracy\n0.5\n", "no column config_sha256"),
        ("config_sha256,method_version,status,accuracy\n{sha},1,finished,high\n", "line 2: could not convert string to float"),
        ("config_sha256,method_version,status,accuracy,curve\n{sha},1,finished,0.5,up\n", "line 2: not enough values to unpack"),
        (None, "cannot be read as a table"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    cells = plan_of(tmp_path, grid=GRID).cells
    if text is not None:
        (tmp_path / "t.csv").write_text(text.replace("{sha}", cells[0].sha256))
    with pytest.raises(UserError) as error:
        read_csv(tmp_path / "t.csv", cells, 1)
    assert words in str(error.value)
    assert "t.csv" in str(error.value)
