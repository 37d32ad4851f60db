"""Which comparisons a study makes: several baselines, primary ones, `where`; each once, and on the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mpssl_fed.cli import build
from mpssl_fed.errors import UserError
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.analysis import analyse
from mpssl_fed.study.folder import STUDY_FILE, Outcome
from mpssl_fed.study.grid import load_study
from mpssl_fed.study.report.finding import study_finding
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.result_table import write_csv
from mpssl_fed.study.results import FINISHED, Row
from mpssl_fed.study.statistics import holm, paired_p, q_values
from tests.report.test_terms import PLAIN, read, unexplained
from tests.study.runs import plan_of, write_study

METHODS = ["base", "mp-ssl", "mp-ssl-wo-scr", "mp-ssl-wo-lmo"]
GRID = {"method.name": METHODS, "data.labels_per_class": [1, 4]}
GAIN = {"base": 0.0, "mp-ssl": 0.1, "mp-ssl-wo-scr": 0.004, "mp-ssl-wo-lmo": 0.05}
BASELINES = [{"method.name": name} for name in ("base", "mp-ssl-wo-lmo")]
WHERE = {"arm": {"method.name": "mp-ssl"}, "against": {"method.name": "base"}, "where": {"data.labels_per_class": 1}}


def study(folder: Path, **fields: Any) -> Outcome:
    """Return a finished study of five seeds, whose methods gain what ``GAIN`` says, and seeds a little noise."""
    plan = plan_of(folder, grid=GRID, seeds=5, **fields)
    (folder / STUDY_FILE).write_text(plan.to_yaml())
    rows = {}
    for number, cell in enumerate(plan.cells):
        luck = 0.02 * cell.seed + 0.003 * ((number * 7) % 5)
        accuracy = 0.4 + 0.05 * cell.settings["data.labels_per_class"] + GAIN[cell.settings["method.name"]] + luck
        measured = {"accuracy": accuracy, "loss": 1 - accuracy}
        rows[cell.sha256] = Row(cell.sha256, METHOD_VERSION, cell.seed, FINISHED, cell.settings, **measured)
    return Outcome(plan, folder, rows)


def p_of(outcome: Outcome, one: str, other: str) -> float:
    """Return the plain p of two arms by their labels."""
    values = {arm.label: [row.value("accuracy") for row in arm.rows] for arm in analyse(outcome).arms}
    p = paired_p([a - b for a, b in zip(values[one], values[other], strict=True)])
    assert p is not None
    return p


def test_every_arm_is_compared_with_every_baseline_once(tmp_path: Path) -> None:
    found = analyse(study(tmp_path, baseline=BASELINES))
    per_labels = [("mp-ssl", "base"), ("mp-ssl", "mp-ssl-wo-lmo"), ("mp-ssl-wo-scr", "base"), ("mp-ssl-wo-scr", "mp-ssl-wo-lmo")]
    per_labels.append(("mp-ssl-wo-lmo", "base"))  # two baselines: the later one with the first, not both ways
    wanted = {(f"{a} · labels per class {n}", f"{b} · labels per class {n}") for a, b in per_labels for n in (1, 4)}
    assert {(one, other) for one, other, _ in found.exploratory} == wanted
    assert len(found.exploratory) == len(wanted)
    assert [[one.itself for one in arm.versus] for arm in found.arms[::2]] == [
        [True, False],
        [False] * 2,
        [False] * 2,
        [False, True],
    ]
    base, lmo = found.arms[0], found.arms[6]
    assert base.versus[1].comparison is not None
    assert lmo.versus[0].comparison == base.versus[1].comparison.mirrored()


def test_primary_comparisons_are_apart_from_all_others(tmp_path: Path) -> None:
    outcome = study(tmp_path, baseline=BASELINES, primary=[WHERE, {**WHERE, "against": {"method.name": "mp-ssl-wo-scr"}}])
    found = analyse(outcome)
    arm, rivals = "mp-ssl · labels per class 1", ["base · labels per class 1", "mp-ssl-wo-scr · labels per class 1"]
    assert [(one.arm.label, one.against.label) for one in found.primary] == [(arm, rival) for rival in rivals]
    p = [p_of(outcome, arm, rival) for rival in rivals]
    assert [one.comparison.corrected for one in found.primary if one.comparison] == pytest.approx(holm(p))
    others = [p_of(outcome, one, other) for one, other, _ in found.exploratory]
    assert len(others) == 9  # of the ten with the baselines one is primary
    assert [comparison.corrected for _, _, comparison in found.exploratory] == pytest.approx(q_values(others))
    assert not any(comparison.primary for _, _, comparison in found.exploratory)
    mp_ssl = next(one for one in found.arms if one.label == arm)
    assert mp_ssl.versus[0].comparison == found.primary[0].comparison  # one and the same, wherever it is shown


def test_a_primary_comparison_turned_round_is_the_same(tmp_path: Path) -> None:
    turned = {"arm": WHERE["against"], "against": WHERE["arm"], "where": WHERE["where"]}
    one, other = (
        study(tmp_path / "one", primary=[WHERE], baseline=BASELINES),
        study(tmp_path / "other", primary=[turned], baseline=BASELINES),
    )
    first, second = analyse(one).primary[0].comparison, analyse(other).primary[0].comparison
    assert first is not None
    assert second is not None
    assert second.difference.mean == -first.difference.mean
    assert (second.p, second.corrected, second.verdict) == (first.p, first.corrected, "worse")
    assert len(analyse(other).exploratory) == len(analyse(one).exploratory)
    assert one.plan.primary() == study(tmp_path / "twice", primary=[WHERE, turned]).plan.primary()


def test_where_takes_several_values_and_no_where_all(tmp_path: Path) -> None:
    for where in ({"data.labels_per_class": [1, 4]}, {}):
        plan = study(tmp_path, primary=[{**WHERE, "where": where}]).plan
        arms = plan.arms()
        pairs = [(arms[one], arms[other]) for one, other in plan.primary()]
        assert [(one["data.labels_per_class"], other["data.labels_per_class"]) for one, other in pairs] == [(1, 1), (4, 4)]


def test_page_and_tables_tell_both_families(tmp_path: Path) -> None:
    outcome = study(tmp_path, baseline=BASELINES, primary=[WHERE], compare=[{**WHERE, "against": {"method.name": "mp-ssl-wo-scr"}}])
    page = write_study_report(outcome)
    html, markdown = page.read_text(), (tmp_path / "results.md").read_text()
    sentence = study_finding(outcome, analyse(outcome))
    assert sentence.startswith(
        "The primary comparison: mp-ssl · labels per class 1 against base · labels per class 1 +10.0 ± 0.8 points"
    )
    assert "better beyond noise. mp-ssl · labels per class 4 has the best mean accuracy" in sentence
    assert "of 10 exploratory comparisons" in sentence
    assert html.index("Primary comparisons") < html.index("<h2>Comparison</h2>") < html.index("Against mp-ssl-wo-lmo")
    assert re.search(r"\| mp-ssl \| 1 \|.*\| < 0.001 \|  \| better \|", markdown)  # its corrected p, and no q
    assert re.search(r"\| mp-ssl \| 4 \|.*\|  \| < 0.001 \| better, exploratory \|", markdown)
    assert "## Against mp-ssl-wo-lmo" in markdown
    plain = {*PLAIN, "cells", "arms", "seeds", "evaluated on", "best mean", "time in runs", "status", "s", "against"}
    assert unexplained(read(page), plain) == []


def test_without_primary_comparisons_all_are_exploratory(tmp_path: Path) -> None:
    outcome = study(tmp_path, baseline={"method.name": "base"})  # as study files have always had it
    found = analyse(outcome)
    assert (found.primary, len(found.exploratory)) == ((), 6)
    sentence = study_finding(outcome, found)
    assert "(exploratory)" in sentence
    assert "primary" not in sentence
    write_study_report(outcome)
    assert "| q | verdict |" in (tmp_path / "results.md").read_text()
    assert "p, corrected |" not in (tmp_path / "results.md").read_text()


def test_a_null_primary_comparison_is_told_as_that(tmp_path: Path) -> None:
    weak = {**WHERE, "arm": {"method.name": "mp-ssl-wo-scr"}, "where": {}}
    sentence = study_finding(outcome := study(tmp_path, primary=[weak]), analyse(outcome))
    assert sentence.startswith("Of 2 primary comparisons none differs beyond noise, the largest difference: mp-ssl-wo-scr")
    assert "which is within noise" in sentence
    unfinished = Outcome(
        outcome.plan, tmp_path, {sha: row for sha, row in outcome.rows.items() if row.settings["method.name"] == "base"}
    )
    assert study_finding(unfinished, analyse(unfinished)).startswith("No pair of seeds of 2 primary comparisons has finished.")


def test_the_terminal_prints_them_from_a_table_alone(tmp_path: Path) -> None:
    fields = {"grid": GRID, "seeds": 5, "primary": [WHERE], "baseline": BASELINES}
    outcome = study(tmp_path / "made", primary=[WHERE], baseline=BASELINES)
    write_csv(tmp_path / "table.csv", outcome.ordered, outcome.plan.keys)
    file = write_study(tmp_path, **fields)
    words = ["study", str(file), "--from", str(tmp_path / "table.csv"), "--output", str(tmp_path / "out")]
    dry = CliRunner().invoke(build(), [*words, "--dry-run"])
    assert "40 of 40 rows taken" in dry.output
    assert "40 finished already, 0 to run" in dry.output
    assert "mp-ssl · labels per class 1 against base · labels per class 1" in dry.output
    result = CliRunner().invoke(build(), words)
    assert result.exit_code == 0, result.exception
    printed = [result.output.index(title) for title in ("Primary comparisons", "Study study-file", "Against mp-ssl-wo-lmo")]
    assert printed == sorted(printed)
    assert "The primary comparison: mp-ssl" in result.output


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"primary": [{**WHERE, "where": {"data.labels_per_class": 2}}]}, "primary: no cell has labels per class 2"),
    ({"primary": [{**WHERE, "where": {"method.name": "base"}}]}, "'method.name' stands in 'where'"),
    ({"primary": [{**WHERE, "were": {}}]}, "unknown study key 'primary.0.were'. Did you mean 'where'?"),
    ({"primary": [{**WHERE, "against": WHERE["arm"]}]}, "would be compared with itself alone"),
    ({"baseline": [{"method.name": "base"}, {"method.name": "p-ssl"}]}, "baseline: no cell has p-ssl"),
    ({"baseline": 3}, "baseline.0=3"),
    ({"baseline": [{}]}, "want the settings that a baseline has"),
    ({"baseline": [BASELINES[0], BASELINES[0]]}, "the same baseline is given twice"),
    ({"baseline": {"method.name": ["base", "mp-ssl"]}}, "method base, mp-ssl may be base or mp-ssl; name one of them, or each"),
    ({"primary": [{**WHERE, "where": {"data.labels_per_class": [1, 2]}}]}, "primary: nothing is compared for labels per class 2"),
    ({"primary": [{**WHERE, "arm": {"method.name": ["mp-ssl", "p-ssl"]}}]}, "primary: nothing is compared for p-ssl"),
    ({"compare": [{**WHERE, "where": {"data.labels_per_class": True}}]}, "compare: no cell has labels per class yes"),
]


@pytest.mark.parametrize(("fields", "words"), MISTAKES)
def test_mistakes_are_refused_with_their_cure(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        plan_of(tmp_path, **{"grid": GRID, **fields})


def test_overrides_drop_what_they_leave_out(tmp_path: Path) -> None:
    file = write_study(tmp_path, grid=GRID, seeds=1, baseline=BASELINES, primary=[WHERE])
    left = load_study(file, ["method.name=[base,mp-ssl]"]).study
    assert (left.baseline, len(left.primary)) == ([{"method.name": "base"}], 1)
    assert load_study(file, ["data.labels_per_class=4"]).study.primary == []
    with pytest.raises(UserError, match="baseline: no cell has base"):
        load_study(file, ["method.name=mp-ssl"])
