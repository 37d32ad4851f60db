"""The first sentence of a study's report, and the comparisons that it asks for beside the baseline's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.analysis import analyse
from mpssl_fed.study.folder import STUDY_FILE, Outcome
from mpssl_fed.study.grid import load_study
from mpssl_fed.study.report.finding import study_finding
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.results import FINISHED, Row
from mpssl_fed.study.statistics import paired_p, q_values
from tests.study.runs import plan_of, write_run, write_study

GRID = {"method.name": ["base", "vic-gssl"], "method.augment": ["weak", "half-strong"]}
NOISE = (0.0, 0.02, 0.01, -0.01, 0.005)


def study(folder: Path, means: dict[tuple[str, str], float], seeds: int = 5, **fields: Any) -> Outcome:
    """Return a study whose arms have these mean accuracies; seeds go up and down together, but for a little."""
    plan = plan_of(folder, grid=GRID, seeds=seeds, **fields)
    (folder / STUDY_FILE).write_text(plan.to_yaml())
    rows = {}
    for cell in plan.cells:
        arm = (cell.settings["method.name"], cell.settings["method.augment"])
        if arm in means:
            accuracy = means[arm] + NOISE[cell.seed] + 0.002 * ((cell.seed * (1 + len(arm[1]))) % 3 - 1)
            measured = {"accuracy": accuracy, "loss": 1 - accuracy}
            rows[cell.sha256] = Row(cell.sha256, METHOD_VERSION, cell.seed, FINISHED, cell.settings, **measured)
    return Outcome(plan, folder, rows)


def said(outcome: Outcome) -> str:
    """Return the sentence, which the page begins with."""
    sentence = study_finding(outcome, analyse(outcome))
    page = write_study_report(outcome).read_text()
    assert 0 < page.index(sentence.split("<")[0]) < page.index("<h2>")
    assert sentence in (outcome.output / "results.md").read_text()
    return sentence


EVEN = {("base", "weak"): 0.5, ("base", "half-strong"): 0.6, ("vic-gssl", "weak"): 0.5, ("vic-gssl", "half-strong"): 0.6}
BASELINE = {"baseline": {"method.name": "base"}}


def test_a_gain_beyond_noise_is_told_with_interval_and_corrected_p(tmp_path: Path) -> None:
    sentence = said(study(tmp_path, EVEN | {("vic-gssl", "half-strong"): 0.7}, **BASELINE))
    assert sentence.startswith("vic-gssl · half-strong has the best mean accuracy, 70.")
    assert (
        "+10.0 ± 0.0 points (95 % interval, 5 seeds, q < 0.001) against its baseline, better beyond noise (exploratory)" in sentence
    )
    assert "of 2 exploratory comparisons, 1 came out better and 0 worse beyond noise" in sentence


def test_no_difference_is_told_as_that(tmp_path: Path) -> None:
    plan_and_rows = study(tmp_path, EVEN, **BASELINE)
    sentence = said(plan_and_rows)
    assert sentence.startswith(
        "Nothing differs beyond noise: none of 2 exploratory comparisons over 5 seeds has a q-value below 0.05"
    )
    assert "better" not in sentence


def test_two_seeds_cannot_tell(tmp_path: Path) -> None:
    sentence = said(study(tmp_path, EVEN | {("vic-gssl", "half-strong"): 0.9}, seeds=2, **BASELINE))
    assert "2 seeds cannot tell a difference from noise; it takes 3 or more" in sentence
    assert "+30.0" in sentence


def test_a_baseline_may_be_best_and_an_arm_elsewhere_better(tmp_path: Path) -> None:
    sentence = said(study(tmp_path, EVEN | {("vic-gssl", "weak"): 0.55, ("base", "half-strong"): 0.7}, **BASELINE))
    assert sentence.startswith("base · half-strong has the best mean accuracy")
    assert "and is a baseline" in sentence
    assert "1 came out better and 1 worse" in sentence
    assert "most of all vic-gssl · weak than base · weak: +5.0" in sentence


def test_without_a_baseline_nothing_was_tested(tmp_path: Path) -> None:
    sentence = said(study(tmp_path, EVEN | {("vic-gssl", "weak"): 0.9}))
    assert "nothing was tested" in sentence
    assert "vic-gssl · weak has the best mean accuracy, 90." in sentence
    assert "so their order may be noise" in sentence


def test_of_losses_the_smallest_is_best(tmp_path: Path) -> None:
    sentence = said(study(tmp_path, EVEN | {("vic-gssl", "half-strong"): 0.7}, metric="loss", **BASELINE))
    assert sentence.startswith("vic-gssl · half-strong has the best mean loss, 0.2")
    assert "-0.100" in sentence
    assert "%" not in sentence.replace("95 %", "")


def test_one_arm_and_none(tmp_path: Path) -> None:
    assert "no other arm has finished" in said(study(tmp_path / "one", {("base", "weak"): 0.5}, **BASELINE))
    assert "there is nothing to compare" in said(study(tmp_path / "none", {}, **BASELINE))


def test_a_study_at_chance_says_so(tmp_path: Path) -> None:
    outcome = study(tmp_path, {("base", "weak"): 0.1}, seeds=3)
    assert "chance" not in study_finding(outcome, analyse(outcome))
    for row in outcome.finished:
        folder = write_run(outcome.folder(row), [0.1, 0.11], {"method": {"name": "base"}})
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"held_out": {"images": 200, "largest_class": 20}}))
    assert "Even the best arm ends within noise of chance." in said(outcome)


ASKED = {"arm": {"method.name": "vic-gssl"}, "against": {"method.name": "base", "method.augment": "weak"}}


def test_arms_of_different_settings_are_compared_where_the_study_asks(tmp_path: Path) -> None:
    outcome = study(tmp_path, EVEN, compare=[ASKED], **BASELINE)
    found = analyse(outcome)
    arms, asked = found.arms, found.asked
    assert [(one.arm.label, one.against.label) for one in asked] == [
        ("vic-gssl · weak", "base · weak"),
        ("vic-gssl · half-strong", "base · weak"),
    ]
    # The first is the baseline's own comparison: it counts once among the three that p is corrected over.
    assert asked[0].comparison == arms[2].comparison
    values = {arm.label: [row.value("accuracy") for row in arm.rows] for arm in arms}
    strong = "vic-gssl · half-strong"
    pairs = [("vic-gssl · weak", "base · weak"), (strong, "base · half-strong"), (strong, "base · weak")]
    p = [paired_p([a - b for a, b in zip(values[one], values[other], strict=True)]) for one, other in pairs]
    corrected = q_values([value for value in p if value is not None])
    assert asked[1].comparison is not None
    assert asked[1].comparison.corrected == pytest.approx(corrected[2])
    assert asked[1].comparison.verdict == "better"
    sentence = said(outcome)
    assert "most of all vic-gssl · half-strong than base · weak: +9.8" in sentence
    assert "of 3 exploratory comparisons" in sentence
    page = write_study_report(outcome).read_text()
    assert "Comparisons that this study asks for" in page
    assert "| vic-gssl · half-strong | base · weak | 5 | +9.8" in (tmp_path / "results.md").read_text()


def test_a_study_asks_for_the_same_again_after_it_was_written(tmp_path: Path) -> None:
    outcome = study(tmp_path, EVEN, compare=[ASKED], show="best")
    again = load_study(tmp_path / STUDY_FILE)
    assert again == outcome.plan
    assert again.asked() == outcome.plan.asked()
    assert load_study(tmp_path / "study-file.yaml", ["method.name=base"]).study.compare == []  # no arm of it is left


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"arm": {"method.name": "vic"}, "against": {"method.name": "base"}}, "compare: no cell has vic"),
        ({"arm": {"method.nam": "base"}, "against": {"method.name": "base"}}, "Did you mean 'method.name'?"),
        ({"arm": {"method.augment": "weak"}, "against": {"method.augment": "half-strong"}, "extra": 1}, "unknown study key"),
        ({"arm": {"method.name": "base"}}, "compare.0.against"),
        ({"arm": {"method.name": "base"}, "against": {}}, "would be compared with itself alone"),
        ({"arm": {"method.name": "vic-gssl", "optim.lr": 0.1}, "against": {"optim.lr": 0.2}}, "none with the other settings of"),
    ],
)
def test_a_comparison_that_names_no_arm_is_refused(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    grids = [GRID | {"optim.lr": [0.1]}, GRID | {"method.name": ["base"], "optim.lr": [0.2]}]
    file = write_study(tmp_path, grids=grids, compare=[asked])
    with pytest.raises(UserError, match=re.escape(message)):
        load_study(file)
