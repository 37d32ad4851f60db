"""Seeds that are added until an interval is narrow: which cells, when, and what that does to intervals and tests."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from mpssl_fed.cli import build
from mpssl_fed.errors import UserError
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.analysis import analyse
from mpssl_fed.study.folder import STUDY_FILE, Outcome
from mpssl_fed.study.grid import Cell, Plan, load_study
from mpssl_fed.study.measured import failed_row
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.result_table import write_csv
from mpssl_fed.study.results import FINISHED, Row
from mpssl_fed.study.run import run_study
from mpssl_fed.study.schema import SeedRule
from mpssl_fed.study.sequential import due, seeds_for, wanted
from mpssl_fed.study.statistics import estimate, paired_p
from tests.study.runs import plan_of, write_study

GRID = {"method.name": ["base", "vic-gssl", "naive-gssl"]}
PRIMARY = [{"arm": {"method.name": "vic-gssl"}, "against": {"method.name": "base"}}]
FIELDS: dict[str, Any] = {"grid": GRID, "primary": PRIMARY, "baseline": {"method.name": "base"}}
SEEDS = {"least": 4, "most": 12, "halfwidth": 0.02}
REPEATS = 2000


def accuracy(cell: Cell, spread: float, gain: float) -> float:
    """Return a made-up accuracy: ``gain`` for vic-gssl, and of the seed's luck half a ``spread`` that no other arm shares."""
    luck = np.random.default_rng([cell.seed, len(cell.label), 5]).normal(0, spread)
    return float(0.5 + gain * (cell.label == "vic-gssl") + luck)


def row(cell: Cell, spread: float, gain: float = 0.0) -> Row:
    """Return the row of a finished cell."""
    value = accuracy(cell, spread, gain)
    return Row(cell.sha256, METHOD_VERSION, cell.seed, FINISHED, cell.settings, accuracy=value, loss=1 - value)


def run(plan: Plan, spread: float, gain: float = 0.0, seed: int = 0) -> dict[str, Row]:
    """Return all rows after running what is due, in a random order, until nothing is."""
    rows: dict[str, Row] = {}
    order = random.Random(seed)
    while missing := [cell for cell in due(plan, rows) if cell.sha256 not in rows]:
        cell = order.choice(missing)
        rows[cell.sha256] = row(cell, spread, gain)
    return rows


def counts(plan: Plan, rows: dict[str, Row]) -> dict[str, int]:
    """Return the number of rows by arm."""
    found = dict.fromkeys((cell.label for cell in plan.first), 0)
    for cell in plan.cells:
        found[cell.label] += cell.sha256 in rows
    return found


def test_seeds_are_added_where_a_primary_comparison_needs_them(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=SEEDS, **FIELDS)
    assert len(plan.first) == 3 * 4
    assert len(plan.cells) == 3 * 4 + 2 * 8
    assert due(plan, {}) == list(plan.first)
    narrow, wide = run(plan, 0.001), run(plan, 0.1)
    assert counts(plan, narrow) == {"base": 4, "vic-gssl": 4, "naive-gssl": 4}
    assert counts(plan, wide) == {"base": 12, "vic-gssl": 12, "naive-gssl": 4}
    assert [one.why for one in wanted(plan, narrow)] == ["narrow enough"]
    assert [one.why for one in wanted(plan, wide)] == ["limit of seeds"]
    between = run(plan, 0.01)
    n = counts(plan, between)["vic-gssl"]
    assert 4 < n < 12
    comparison = analyse(Outcome(plan, tmp_path, between)).primary[0].comparison
    assert comparison is not None
    assert comparison.difference.n == n
    differences = [accuracy(c, 0.01, 0.0) for c in plan.first if c.label == "vic-gssl"]
    others = [accuracy(c, 0.01, 0.0) for c in plan.first if c.label == "base"]
    spread = np.std(np.subtract(differences, others), ddof=1)
    half = [stats.t.ppf(0.975, 3) * spread / np.sqrt(m) for m in (n, n - 1)]
    assert comparison.difference.half == pytest.approx(half[0])
    assert half[0] <= 0.02 < half[1]


def test_neither_sign_nor_size_nor_order_decides(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=SEEDS, **FIELDS)
    found = [run(plan, 0.01, gain, seed).keys() for gain in (0.0, 0.3, -0.3) for seed in (0, 1)]
    assert all(keys == found[0] for keys in found)


def test_a_stopped_study_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=SEEDS, **FIELDS)
    whole = run(plan, 0.01)
    for kept in (0, 3, 11, len(whole) - 1):
        rows = dict(list(whole.items())[:kept])
        before = set(rows)
        while missing := [cell for cell in due(plan, rows) if cell.sha256 not in rows]:
            assert not before & {cell.sha256 for cell in missing}
            rows |= {cell.sha256: row(cell, 0.01) for cell in missing}
        assert rows == whole


def test_a_failed_cell_holds_its_comparison_up(tmp_path: Path) -> None:
    """Seeds that fail must not be replaced by luckier ones: the comparison waits until the cell is tried again."""
    plan = plan_of(tmp_path, seeds=SEEDS, **FIELDS)
    bad = next(cell for cell in plan.first if cell.label == "vic-gssl")
    rows = {cell.sha256: row(cell, 0.1) for cell in plan.first} | {bad.sha256: failed_row(bad, METHOD_VERSION, "no")}
    assert due(plan, rows) == list(plan.first)
    assert wanted(plan, rows)[0].why == "first stage not finished"
    rows[bad.sha256] = row(bad, 0.1)
    assert len(due(plan, rows)) == len(plan.cells)


def test_the_page_says_how_many_seeds_and_why(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=SEEDS, **FIELDS)
    (tmp_path / STUDY_FILE).write_text(plan.to_yaml())
    assert load_study(tmp_path / STUDY_FILE) == plan
    outcome = Outcome(plan, tmp_path, run(plan, 0.1, 0.2))
    page, markdown = write_study_report(outcome).read_text(), (tmp_path / "results.md").read_text()
    assert page.index("Primary comparisons") < page.index("<h2>Comparison</h2>")
    assert "from 4 to at most 12" in page
    assert "| vic-gssl | base | 12 |" in markdown
    assert "limit of seeds" in markdown
    assert "not run yet" not in page
    assert "<dd>28 of 28</dd>" in page
    assert "<dd>4 to 12</dd>" in page
    rows = {cell.sha256: row(cell, 0.1) for cell in plan.first}
    early = write_study_report(Outcome(plan, tmp_path, rows)).read_text()
    assert "16 cells not run yet" in early
    assert "12 wanted" in early


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"seeds": {"least": 4, "most": 3, "halfwidth": 0.1}}, "most=3 is below least=4"),
    ({"seeds": {"least": 2, "most": 9, "halfwidth": 0.1}}, "seeds.least=2"),
    ({"seeds": {"least": 3, "most": 9}}, "seeds.halfwidth"),
    ({"seeds": {"least": 3, "most": 9, "halfwidth": 0}}, "seeds.halfwidth=0"),
    ({"seeds": {"least": 3, "most": 9, "halfwith": 0.1}}, "unknown study key 'seeds.halfwith'. Did you mean 'halfwidth'?"),
    ({"primary": []}, "'seeds' adds seeds for primary comparisons, and 'primary' names none"),
    ({"primary": [{"arm": {"method.name": "vic"}, "against": {"method.name": "base"}}]}, "primary: no cell has vic"),
]


@pytest.mark.parametrize(("fields", "words"), MISTAKES)
def test_mistakes_are_refused_with_their_cure(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        plan_of(tmp_path, **{**FIELDS, "seeds": SEEDS, **fields})
    assert words in str(error.value)


def test_the_command_line_changes_the_rule(tmp_path: Path) -> None:
    file = write_study(tmp_path, seeds=SEEDS, **FIELDS)
    assert load_study(file, ["seeds.most=5"]).study.rule == SeedRule(least=4, most=5, halfwidth=0.02)
    assert load_study(file, ["seeds=2"]).study.first_seeds == [0, 1]
    alone = load_study(file, ["method.name=base"])  # no primary comparison is left, so no seed is added
    assert (len(alone.cells), alone.study.rule, alone.study.primary) == (4, None, [])
    assert len({cell.seed for cell in load_study(file, ["method.name=[base,vic-gssl]"]).cells}) == 12


@pytest.mark.parametrize("spread", [1.0, 1.7, 2.4])
def test_intervals_keep_their_coverage_and_tests_their_level(spread: float) -> None:
    """2,000 studies of 10 to 20 seeds whose arms do not differ; ``spread`` is in units of the half width that is enough."""
    rule = SeedRule(least=10, most=20, halfwidth=1.0)
    draws = np.random.default_rng(7).normal(0, spread, (REPEATS, rule.most))
    covered, rejected, sizes = 0, 0, []
    for values in draws.tolist():
        n = seeds_for(values[: rule.least], rule)
        first, added = values[: rule.least], values[rule.least : n]
        found, p = estimate(first, added), paired_p(first, added)
        assert found.half is not None
        assert p is not None
        assert found.half <= rule.halfwidth or n == rule.most
        assert (p < 0.05) == (abs(found.mean) > found.half)
        covered += abs(found.mean) <= found.half
        rejected += p < 0.05
        sizes.append(n)
    assert 0.93 <= covered / REPEATS <= 0.97
    assert rejected / REPEATS <= 0.06
    assert len(set(sizes)) > 2  # so that stopping takes part
    assert _chow_robbins(draws, rule) <= covered  # what the plain interval of all seeds would give


def _chow_robbins(draws: np.ndarray, rule: SeedRule) -> int:
    """Return in how many studies the plain t-interval, looked at after each seed and kept once it is narrow, holds the truth."""
    covered, going = 0, np.ones(len(draws), bool)
    for n in range(rule.least, rule.most + 1):
        seen = draws[:, :n]
        half = stats.t.ppf(0.975, n - 1) * seen.std(axis=1, ddof=1) / np.sqrt(n)
        stops = going & ((half <= rule.halfwidth) | (n == rule.most))
        covered += int((np.abs(seen.mean(axis=1)) <= half)[stops].sum())
        going &= ~stops
    return covered


def test_holm_over_primary_comparisons_of_one_baseline_keeps_its_level() -> None:
    """Three arms that share a baseline and its added seeds, none better: any false claim in at most 6 % of studies."""
    rule, rng, false = SeedRule(least=10, most=20, halfwidth=0.01), np.random.default_rng(11), 0
    for _ in range(REPEATS // 2):
        arms = rng.normal(0, [[0.015], [0.01], [0.02], [0.03]], (4, rule.most))
        differences = arms[1:] - arms[0]
        counts = [seeds_for(values[: rule.least].tolist(), rule) for values in differences]
        smallest = min(
            float(paired_p(values[: rule.least].tolist(), values[rule.least : n].tolist()) or 0.0)
            for values, n in zip(differences, counts, strict=True)
        )
        false += smallest * 3 < 0.05
    assert false / (REPEATS // 2) <= 0.06


def test_a_study_that_adds_seeds_runs_each_cell_once(tmp_path: Path) -> None:
    """Really run, stopped, gone on with and rebuilt from its table."""
    rule = {"least": 3, "most": 4, "halfwidth": 1e-6}
    grid = {"method.name": ["base"], "method.augment": ["weak", "half-strong"]}
    primary = [{"arm": {"method.augment": "half-strong"}, "against": {"method.augment": "weak"}}]
    plan, output = plan_of(tmp_path, grid=grid, primary=primary, seeds=rule, metric="loss"), tmp_path / "out"
    outcome = run_study(plan, output, 1)
    assert [cell.seed for cell in plan.cells if cell.sha256 in outcome.rows] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert not outcome.failed
    write_study_report(outcome)
    ran = {file: file.stat().st_mtime_ns for file in output.glob("cells/*/result.json")}
    shutil.rmtree(output / "cells" / plan.cells[-1].id)  # as if it had been stopped before its last cell
    assert len(run_study(plan, output, 1).finished) == 8
    again = {file: file.stat().st_mtime_ns for file in output.glob("cells/*/result.json")}
    assert {file.parent.name for file, when in again.items() if ran[file] != when} == {plan.cells[-1].id}
    elsewhere = run_study(plan, tmp_path / "elsewhere", 1, from_csv=output / "results.csv")
    assert len(elsewhere.finished) == 8
    assert not list((tmp_path / "elsewhere" / "cells").iterdir())


def test_a_dry_run_prints_the_least_and_the_most(tmp_path: Path) -> None:
    file = write_study(tmp_path, seeds=SEEDS | {"others": 2}, **FIELDS)
    dry = ["study", str(file), "--dry-run", "--output", str(tmp_path / "out")]
    said = CliRunner().invoke(build(), dry).output
    assert "At least 10 cells" in said  # two arms of four seeds, one of two
    assert "2 arms of primary comparisons x 4 seeds, and 1 other arms x 2" in said
    assert "At most 26 cells: the 2 arms get up to 12 seeds" in said
    assert "0 finished already, 10 to 26 to run" in said
    assert "At least: 80 steps" in said  # 10 cells, two sites, two rounds of two steps
    assert "At most: 208 steps" in said
    plan = load_study(file)
    write_csv(tmp_path / "first.csv", [row(cell, 0.01) for cell in plan.first], plan.keys)
    said = CliRunner().invoke(build(), [*dry, "--from", str(tmp_path / "first.csv")]).output
    assert "10 finished already, 8 to run" in said  # its spread is known: 8 seeds of each of the two arms
