"""What selection could win: by hand on made-up rows, for every order and number of arms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.analysis import arms_of
from mpssl_fed.study.folder import STUDY_FILE, Outcome
from mpssl_fed.study.report.gate import gains, gate_section
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.results import FINISHED, Row
from tests.report.test_terms import PLAIN, read, unexplained
from tests.study.runs import plan_of

ARMS = {
    "base": {"method.name": "base"},
    "oracle": {"method.source": "oracle", "method.loss": "vicreg"},
    "lmo": {"method.source": "meta-optimised", "method.loss": "vicreg", "method.lmo_batch": 8, "method.latent.init": "closed-form"},
    "random": {"method.source": "random", "method.loss": "vicreg"},
    "anti": {"method.source": "anti-oracle", "method.loss": "vicreg"},
    "scr oracle": {"method.source": "oracle", "method.loss": "scr"},
    "other lambda": {"method.source": "random", "method.loss": "vicreg", "method.lambda": 3},
}
BY_SEED = {"oracle": (0.04, 0.05, 0.06), "lmo": (0.02, 0.025, 0.03), "anti": (-0.1, -0.2, 0.0)}


def study(folder: Path, shift: float = 0.0, seeds: int = 3, **fields: Any) -> Outcome:
    """Return a finished study whose arms gain what ``BY_SEED`` says, the oracle ``shift`` more."""
    plan = plan_of(folder, variants=ARMS, seeds=seeds, **fields)
    rows = {}
    for cell in plan.cells:
        gain = BY_SEED.get(cell.label, (0.0,) * 3)[cell.seed] + shift * (cell.label == "oracle")
        value = 0.5 + 0.1 * cell.seed + gain
        rows[cell.sha256] = Row(cell.sha256, METHOD_VERSION, cell.seed, FINISHED, cell.settings, accuracy=value, loss=1 - value)
    return Outcome(plan, folder, rows)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_gains_over_the_random_arm_of_the_same_other_settings(tmp_path: Path, metric: str) -> None:
    outcome = study(tmp_path, metric=metric)
    (group,) = gains(outcome, arms_of(outcome))  # scr has no random arm, and lambda 3 no oracle
    assert [(one.arm.label, one.against.label) for one in group] == [("oracle", "random"), ("anti", "random"), ("lmo", "random")]
    # .04 .05 .06: mean .05, s .01, standard error .01 / sqrt(3)
    assert [one.gain.mean for one in group] == pytest.approx([0.05, -0.1, 0.025])
    assert group[0].error == pytest.approx(0.01 / 3**0.5)
    assert [one.opens for one in group] == [True, False, True]


def test_the_gate_is_closed_within_two_standard_errors(tmp_path: Path) -> None:
    for shift, opens in ((0.01 * 2 / 3**0.5 - 0.05 + 1e-6, True), (0.01 * 2 / 3**0.5 - 0.05 - 1e-6, False), (-0.2, False)):
        outcome = study(tmp_path, shift)
        (section,) = gate_section(outcome, arms_of(outcome))
        assert gains(outcome, arms_of(outcome))[0][0].opens == opens
        assert section["verdict"].startswith("In 1 of one setting a choice" if opens else "In none of one setting")
    one = study(tmp_path, seeds=1)
    assert not gains(one, arms_of(one))[0][0].opens  # of one seed nothing is known of chance


def test_a_study_without_the_arms_has_no_section(tmp_path: Path) -> None:
    outcome = study(tmp_path)
    assert gate_section(outcome, [arm for arm in arms_of(outcome) if "oracle" not in arm.label]) == []
    unfinished = {sha: row for sha, row in outcome.rows.items() if row.settings["variant"] != "oracle"}
    early = Outcome(outcome.plan, tmp_path, unfinished)
    assert gate_section(early, arms_of(early)) == []


def test_it_stands_on_the_page(tmp_path: Path) -> None:
    outcome = study(tmp_path)
    (tmp_path / STUDY_FILE).write_text(outcome.plan.to_yaml())
    page = write_study_report(outcome)
    text = page.read_text()
    assert "What selection could win" in text
    assert "a choice of classes can win: at most 5.0 points (standard error 0.6), oracle against random." in text
    assert "<td>open</td>" in text.replace(' class=""', "")
    plain = {*PLAIN, "cells", "arms", "seeds", "evaluated on", "best mean", "time in runs", "status", "s", "against"}
    assert unexplained(read(page), plain) == []
