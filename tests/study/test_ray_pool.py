"""A study on a local Ray cluster: the same rows as in this process, and a failing cell costs itself alone."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest

from mpssl_fed.study.cell import Task, run_cell
from mpssl_fed.study.run import run_study
from tests.study.runs import plan_of

pytest.importorskip("ray", reason="the extra [ray] is not installed: make test")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_same_rows_as_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("long" * 25)  # its sockets would not fit below
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    bad = {"bad": {"data.name": "image-folder", "data.root": str(tmp_path / "none")}, "good": {}}
    plan = plan_of(tmp_path, variants=bad, grid={"method.name": ["base"]}, seeds=1)
    outcome = run_study(plan, tmp_path / "ray", 2, "ray")
    assert [row.finished for row in outcome.ordered] == [False, True]
    assert "none" in str(outcome.failed[0].error)
    measured = ("accuracy", "best", "loss", "steps", "config_sha256", "settings")
    for cell, row in zip(plan.cells, outcome.ordered, strict=True):
        if row.finished:
            here = dataclasses.asdict(run_cell(Task.of(cell, tmp_path / "here")))
            there = dataclasses.asdict(row)
            assert {name: here[name] for name in measured} == {name: there[name] for name in measured}
            assert (tmp_path / "ray" / "cells" / cell.id / "report.html").is_file()
