"""The run that a study shows is the best arm's, unless the study names another; its files at the top are whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.analysis import arms_of
from mpssl_fed.study.arms import best_arm
from mpssl_fed.study.featured import featured
from mpssl_fed.study.folder import STUDY_FILE, Outcome, read_outcome
from mpssl_fed.study.measured import row_of_run
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.results import write_result
from mpssl_fed.study.run import show_run_files
from tests.study.runs import plan_of, write_run

GRID = {"method.name": ["base", "vic-gssl"]}
ACCURACY = {"base": (0.60, 0.62, 0.55), "vic-gssl": (0.80, 0.70, 0.72)}  # means .59 and .74: nearest are seeds 0 and 2


def study(folder: Path, accuracy: dict[str, tuple[float, ...]], **fields: Any) -> Outcome:
    """Return a study on disk whose arms have these accuracies by seed."""
    plan = plan_of(folder, grid=GRID, seeds=3, **fields)
    (folder / STUDY_FILE).write_text(plan.to_yaml())
    for cell in plan.cells:
        name = cell.settings["method.name"]
        if cell.seed < len(accuracy[name]):
            run = write_run(folder / "cells" / cell.id, [0.1, accuracy[name][cell.seed]], {"method": {"name": name}})
            manifest = json.loads((run / "manifest.json").read_text())
            (run / "manifest.json").write_text(json.dumps(manifest | {"run_id": cell.id}))
            if name == "base":
                (run / "generator.png").unlink()
            write_result(run / "result.json", row_of_run(cell, run, METHOD_VERSION))
    return read_outcome(plan, folder)


def test_it_is_the_best_arms_typical_run(tmp_path: Path) -> None:
    outcome = study(tmp_path, ACCURACY)
    chosen = featured(outcome, arms_of(outcome))
    assert chosen is not None
    assert (chosen.cell.settings["method.name"], chosen.cell.seed) == ("vic-gssl", 2)
    page = write_study_report(outcome).read_text()
    assert "One run: vic-gssl, seed 2" in page
    assert "neither its luckiest nor its worst" in page


def test_where_loss_counts_the_smallest_is_best(tmp_path: Path) -> None:
    outcome = study(tmp_path, ACCURACY, metric="loss")  # 2.4 - 2 x accuracy
    chosen = featured(outcome, arms_of(outcome))
    assert chosen is not None
    assert chosen.cell.settings["method.name"] == "vic-gssl"


def test_an_arm_of_one_lucky_seed_is_not_the_best(tmp_path: Path) -> None:
    outcome = study(tmp_path, {"base": ACCURACY["base"], "vic-gssl": (0.99,)})
    best = best_arm(arms_of(outcome), outcome.plan.study)
    assert best is not None
    assert best.label == "base"


def test_a_study_may_name_another_and_the_page_says_which_is_best(tmp_path: Path) -> None:
    outcome = study(tmp_path, ACCURACY, show={"method.name": "base", "seed": 1})
    page = write_study_report(outcome).read_text()
    assert "One run: base, seed 1" in page
    assert "The best mean is that of vic-gssl." in page


def test_without_run_directories_none_is_shown(tmp_path: Path) -> None:
    outcome = dataclasses.replace(study(tmp_path / "a", ACCURACY), output=tmp_path / "b")
    assert featured(outcome, arms_of(outcome)) is None
    nothing = study(tmp_path / "c", {"base": (), "vic-gssl": ()}, show="best")
    assert featured(nothing, arms_of(nothing)) is None
    show_run_files(nothing)
    assert not (tmp_path / "c" / "manifest.json").exists()


def test_files_at_the_top_are_the_featured_runs_and_nobody_elses(tmp_path: Path) -> None:
    outcome = study(tmp_path, ACCURACY, show="best")
    show_run_files(outcome)
    assert json.loads((tmp_path / "manifest.json").read_text())["run_id"] == outcome.plan.cells[5].id
    assert (tmp_path / "generator.png").is_file()
    (tmp_path / "sites" / "0" / "audit").mkdir()
    show_run_files(outcome)
    assert (tmp_path / "sites" / "0" / "audit").is_dir()  # what was added to the same run stays
    worse = study(tmp_path, {"base": ACCURACY["base"], "vic-gssl": (0.2, 0.2, 0.2)}, show="best")
    show_run_files(worse)
    assert json.loads((tmp_path / "manifest.json").read_text())["run_id"] == worse.plan.cells[0].id
    assert not (tmp_path / "generator.png").exists()  # base draws no images: those of the run before are gone
    assert (tmp_path / "sites" / "0" / "audit").exists()  # no run wrote it


@pytest.mark.parametrize("show", [None, "best"])
def test_run_files_stand_at_the_top_where_the_study_wants_it(tmp_path: Path, show: str | None) -> None:
    outcome = study(tmp_path, ACCURACY, show=show)
    show_run_files(outcome)
    assert (tmp_path / "model.safetensors").exists() is False  # these runs have none
    assert (tmp_path / "config.yaml").exists() is (show == "best")
