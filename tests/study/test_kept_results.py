"""Committed tables: each says of which method version it is, stands beside the study that wrote it, and is rebuilt by it."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.folder import STUDY_FILE, Outcome, read_outcome, table_rows, taken_words
from mpssl_fed.study.grid import load_study
from mpssl_fed.study.measured import row_of_run
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.sequential import due
from tests.study.runs import plan_of, write_run

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
KEPT = sorted(file.stem for file in RESULTS.glob("*.csv"))


@pytest.mark.parametrize("name", KEPT)
def test_a_committed_table_says_what_it_is_of(name: str) -> None:
    with open(RESULTS / f"{name}.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    (version,) = {int(line["method_version"]) for line in lines}
    study = load_study(RESULTS / f"{name}.yaml")
    assert study.study.method_version == version
    assert {cell.method_version for cell in study.cells} == {version}
    failed = sum(line["status"] == "failed" for line in lines)  # a cell may end badly: that is a result, too
    left_out = f"; left out: {failed} failed" if failed else ""
    assert taken_words(study, RESULTS / f"{name}.csv").endswith(f": {len(lines) - failed} of {len(lines)} rows taken{left_out}")
    wanted = due(study, table_rows(study, RESULTS / f"{name}.csv"))
    assert len(wanted) == len(lines)  # with seeds that are added, those which the table itself asks for
    summary = (RESULTS / f"{name}.md").read_text()
    command = f"`mpssl-fed study benchmarks/results/{name}.yaml --from benchmarks/results/{name}.csv`"
    assert f"Results of method version {version}. Command: {command}." in summary
    if version != METHOD_VERSION:  # the shipped study is of this one, and takes none of the rows for its own
        assert table_rows(load_study(name), RESULTS / f"{name}.csv") == {}


def test_every_study_beside_a_table_has_one() -> None:
    assert sorted(file.stem for file in RESULTS.glob("*.yaml")) == KEPT


def test_a_table_is_told_as_it_was_after_the_toolkit_moved_on(tmp_path: Path) -> None:
    plan, table = load_study(RESULTS / "generators.yaml"), RESULTS / "generators.csv"
    (tmp_path / STUDY_FILE).write_text(plan.to_yaml())
    page = write_study_report(Outcome(plan, tmp_path, table_rows(plan, table))).read_text()
    assert "<dt>method version</dt><dd>1</dd>" in page.replace("\n", "").replace("  ", "")
    means = {line.split("|")[4].strip() for line in (tmp_path / "results.md").read_text().splitlines() if line.startswith("| ")}
    kept = {line.split("|")[4].strip() for line in (RESULTS / "generators.md").read_text().splitlines() if line.startswith("| ")}
    assert "87.3 ± 2.9" in means & kept
    assert len(means & kept) > 12


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool that keeps results, writing elsewhere."""
    spec = importlib.util.spec_from_file_location("keep_results", ROOT / "tools" / "keep_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(module, "RESULTS", tmp_path / "kept")
    return module


def test_what_is_kept_is_rebuilt(tmp_path: Path, tool: ModuleType) -> None:
    plan, run = plan_of(tmp_path, grid={"method.name": ["base", "vic-gssl"]}, seeds=2), tmp_path / "run"
    rows = {}
    for number, cell in enumerate(plan.cells):
        rows[cell.sha256] = row_of_run(cell, write_run(run / "cells" / cell.id, [0.1, 0.5 + 0.02 * number]), METHOD_VERSION)
    (run / STUDY_FILE).write_text(plan.to_yaml())
    write_study_report(Outcome(plan, run, rows))
    for _ in range(2):  # the second of what is itself rebuilt from a kept table
        tool.keep("mine", run)
        kept = load_study(tmp_path / "kept" / "mine.yaml")
        assert kept.study.method_version == METHOD_VERSION
        assert table_rows(kept, tmp_path / "kept" / "mine.csv").keys() == rows.keys()
        assert f"Results of method version {METHOD_VERSION}. Command:" in (tmp_path / "kept" / "mine.md").read_text()
        shutil.copy(tmp_path / "kept" / "mine.yaml", run / STUDY_FILE)
        write_study_report(read_outcome(load_study(run / STUDY_FILE), run))
