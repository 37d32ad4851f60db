"""A study compares its arms by the metric that it names, in its own direction and unit."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.runs.reader import RunReader
from mpssl_fed.study.analysis import analyse
from mpssl_fed.study.arms import best_arm
from mpssl_fed.study.folder import Outcome, cell_folder
from mpssl_fed.study.headline import LOWER_IS_BETTER, OF_EVALUATION, Metric
from mpssl_fed.study.report.compared import METRICS
from mpssl_fed.study.report.finding import METRIC, study_finding
from mpssl_fed.study.report.tables import comparison_table
from mpssl_fed.study.result_table import read_csv, write_csv
from mpssl_fed.study.results import FINISHED, Row
from mpssl_fed.study.run import run_study
from tests.study.runs import plan_of


@pytest.mark.parametrize("metric", get_args(Metric))
def test_table_ranking_and_sentence_follow_it(tmp_path: Path, metric: str) -> None:
    plan = plan_of(
        tmp_path, grid={"method.augment": ["weak", "half-strong"]}, seeds=3, metric=metric, baseline={"method.augment": "weak"}
    )
    rows = {}
    for cell in plan.cells:
        value = (0.3 if cell.settings["method.augment"] == "weak" else 0.2) + 0.001 * cell.seed
        rows[cell.sha256] = Row(cell.sha256, 2, cell.seed, FINISHED, cell.settings, **{"accuracy": 0.5, metric: value})
    outcome = Outcome(plan, tmp_path, rows)
    found = analyse(outcome)
    best = best_arm(found.arms, plan.study)
    assert best is not None
    less = metric in LOWER_IS_BETTER
    assert best.settings["method.augment"] == ("half-strong" if less else "weak")
    assert found.arms[1].comparison is not None
    assert found.arms[1].comparison.verdict == ("better" if less else "worse")
    assert METRICS[metric] in comparison_table(outcome, found).columns
    shown = ("0.201" if less else "0.301") if metric in ("loss", "brier") else ("20.1" if less else "30.1")
    assert f"has the best mean {METRIC[metric]}, {shown}" in study_finding(outcome, found)


def test_an_unknown_one_is_refused_and_the_known_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metric='auc'.*'auroc'.*'brier'"):
        plan_of(tmp_path, grid={"method.augment": ["weak"]}, metric="auc")


def test_a_cell_keeps_what_its_run_measured(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid={"method.name": ["base"]}, seeds=1, metric="brier")
    outcome = run_study(plan, tmp_path / "out", workers=1)
    (row,) = outcome.finished
    found = RunReader(cell_folder(tmp_path / "out", plan.cells[0])).metrics
    assert found is not None
    write_csv(tmp_path / "results.csv", [row], plan.keys)
    (read,) = read_csv(tmp_path / "results.csv", plan.cells, row.method_version).values()
    for name in OF_EVALUATION:
        assert getattr(read, name) == getattr(row, name) == found.value(name)
    old = "\n".join(",".join(line.split(",")[:8]) for line in (tmp_path / "results.csv").read_text().splitlines())
    (tmp_path / "old.csv").write_text(old)  # a table from before these columns
    (read,) = read_csv(tmp_path / "old.csv", plan.cells, row.method_version).values()
    assert (read.accuracy, read.brier, read.has("brier")) == (row.accuracy, None, False)
