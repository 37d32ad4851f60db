"""The front against points worked out by hand, and the page of a study that really ran privately."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from mpssl_fed.audit.one_number import membership_auroc
from mpssl_fed.config import from_mapping
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.analysis import arms_of
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.report.against import against_table
from mpssl_fed.study.report.attacks import attack_success
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.report.pareto_plot import plot
from mpssl_fed.study.report.pareto_tables import attack_table, front_table, spent_table
from mpssl_fed.study.report.points import NONE, OWN, SHARED, WITHOUT, Point, epsilon_of, front, points_of, series_of
from mpssl_fed.study.result_table import read_csv, write_csv
from mpssl_fed.study.results import Row
from mpssl_fed.study.run import run_study
from mpssl_fed.study.statistics import Estimate
from tests.report.test_terms import PLAIN, read, unexplained
from tests.study.runs import plan_of

PRIVATE = {
    "data": {"labels_per_class": 2, "test_limit": 50},
    "model": {"name": "pixels"},
    "method": {"name": "base"},
    "warm_start": {"steps": 2, "batch": 2},
    "federation": {"sites": 2, "rounds": 2, "local_steps": 2},
    "privacy": {"scope": "off", "public_size": 20, "delta": 1e-3, "sample_rate": 0.5, "noise": "fast"},
}


def test_the_front_of_points_on_a_page() -> None:
    points = [(0.0, 0.70), (1.0, 0.65), (1.0, 0.84), (1.0, 0.80), (2.0, 0.84), (4.0, 0.90), (8.0, 0.89), (math.inf, 0.95)]
    assert front(points) == [True, False, True, False, False, True, False, True]


def test_equal_points_are_both_on_the_front() -> None:
    assert front([(1.0, 0.8), (1.0, 0.8)]) == [True, True]


def test_one_point_and_none() -> None:
    assert front([(math.inf, 0.1)]) == [True]
    assert front([]) == []


def test_epsilon_is_what_the_run_claims() -> None:
    terms = {"public_size": 600, "delta": 5e-5}
    assert epsilon_of(from_mapping({"privacy": terms | {"epsilon": 2}})) == 2
    assert epsilon_of(from_mapping({"privacy": terms | {"scope": "off"}})) == math.inf
    assert epsilon_of(from_mapping({"method": {"name": "generator-only"}, "warm_start": {"part": "both"}})) == 0


@pytest.mark.parametrize(
    ("fields", "uses"),
    [
        ({"method": {"name": "base"}}, False),
        ({"method": {"name": "ssl-real"}}, False),
        ({"method": {"name": "vic-gssl"}}, True),
        ({"method": {"name": "base"}, "warm_start": {"part": "body"}}, True),
        ({"method": {"name": "base"}, "federation": {"anchor": {"weight": 1}}}, True),
    ],
)
def test_a_run_uses_the_generator_where_anything_trained_has_seen_it(fields: dict[str, object], uses: bool) -> None:
    assert from_mapping(fields).draws is uses


def test_the_table_lists_the_front_by_epsilon_and_drops_a_column_nobody_filled() -> None:
    points = [
        Point("b", "digits", 8.0, Estimate(0.9, 0.01, 5), True, True, None, True),
        Point("a", "digits", 1.0, Estimate(0.8, None, 1), False, True, None, True),
        Point("c", "digits", 1.0, Estimate(0.7, 0.01, 5), False, True),
    ]
    table = front_table(points)
    assert "attack AUROC" not in table.columns
    assert [[cell.text for _, cell in row.cells] for row in table.rows] == [
        ["digits", "1", "a", "80.0", "1", "without it"],
        ["digits", "8", "b", "90.0 ± 1.0", "5", "with the public generator"],
    ]


def test_what_the_generator_adds_is_paired_by_seed(tmp_path: Path) -> None:
    grid = {"warm_start.part": ["none", "head"], "privacy.epsilon": [1, 8]}
    plan = plan_of(tmp_path, base=PRIVATE, grid=grid, seeds=3, baseline={"warm_start.part": "none"})
    accuracies = {("none", 1.0): (0.80, 0.82, 0.81), ("head", 1.0): (0.85, 0.86, 0.87), ("none", 8.0): (0.70, 0.71, 0.72)}
    rows = {}
    for cell in plan.cells:
        found = accuracies.get((cell.config.warm_start.part, cell.config.privacy.epsilon or 0))
        if found is not None:
            rows[cell.sha256] = Row(cell.sha256, 1, cell.seed, "finished", cell.settings, accuracy=found[cell.seed])
    outcome = Outcome(plan, tmp_path, rows)
    table = against_table(outcome, arms_of(outcome))
    lines = [[cell.text for _, cell in row.cells] for row in table.rows]
    assert [line[1] for line in lines] == ["1", "1"]  # at 8 nothing with the generator has finished
    # differences 5, 4 and 6 points: mean 5, deviation 1, half the interval 4.303 / sqrt(3)
    assert lines[0][4:6] == ["+5.0 ± 2.5", "3"]
    assert lines[1][4:6] == ["+15.0 ± 0.0", "3"]


def test_trust_is_a_series_and_each_network_has_its_panel(tmp_path: Path) -> None:
    """Noise that is shared, noise of a site's own and none are told apart, at each number of sites."""
    own = {"privacy.scope": "end-to-end", "federation.local_steps": 1, "optim.name": "sgd", "optim.weight_decay": 0}
    shared = own | {"privacy.trust": "sum", "federation.aggregation": "secure", "federation.secure.masks": False}
    plan = plan_of(
        tmp_path,
        base=PRIVATE,
        variants={"own": own, "shared": shared, "none": {"privacy.scope": "off"}},
        grid={"variant": ["own", "shared", "none"], "federation.sites": [3, 4], "privacy.epsilon": [2]},
        seeds=1,
        baseline={"variant": "own"},
    )
    accuracies = {"own": 0.6, "shared": 0.7, "none": 0.9}
    rows = {
        cell.sha256: Row(cell.sha256, 1, 0, "finished", cell.settings, accuracy=accuracies[str(cell.settings["variant"])])
        for cell in plan.cells
    }
    outcome = Outcome(plan, tmp_path, rows)
    points = points_of(outcome, arms_of(outcome))
    panels = ["mnist-5k, pixels, 3 sites", "mnist-5k, pixels, 4 sites"]
    assert {(p.group, p.series, p.epsilon, p.on_front) for p in points} == {
        (panel, *point) for panel in panels for point in ((OWN, 2, False), (SHARED, 2, True), (NONE, math.inf, True))
    }
    assert series_of(points) == [OWN, SHARED, NONE]
    drawn = plot(tmp_path, points)
    for words in (*panels, OWN, SHARED, NONE):
        assert words in drawn
    assert WITHOUT not in drawn


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A study that trained: epsilon 0 and 2 on a few real digits."""
    folder = tmp_path_factory.mktemp("study")
    plan = plan_of(
        folder,
        base=PRIVATE,
        grids=[
            {"warm_start.part": ["head"], "method.name": ["generator-only"]},
            {"warm_start.part": ["none"], "privacy.epsilon": [2]},
        ],
        seeds=1,
    )
    done = run_study(plan, folder / "out", 1)
    assert [row.error for row in done.failed] == []
    return done


def test_the_page_holds_front_plot_and_what_the_ledgers_say(outcome: Outcome) -> None:
    page = Path(write_study_report(outcome)).read_text()
    for words in ("Epsilon against accuracy", "Pareto front", "Epsilon planned and spent"):
        assert words in page
    assert (outcome.output / "plots" / "pareto.png").is_file()
    seen = read(outcome.output / "report.html")
    plain = {*PLAIN, "cells", "arms", "seeds", "evaluated on", "best mean", "time in runs", "status", "s"}
    assert unexplained(seen, plain) == []
    arms = arms_of(outcome)
    rows = [dict(row.cells) for row in spent_table(outcome, arms).rows]
    assert len(rows) == 1  # the private arm alone
    for row in rows:
        assert row["ledgers"].text == "2"
        assert float(row["planned"].text) <= 2
        assert row["least spent"].text == row["most spent"].text == row["planned"].text


def test_only_the_generator_alone_stands_at_epsilon_zero(outcome: Outcome) -> None:
    points = points_of(outcome, arms_of(outcome))
    assert sorted(point.epsilon for point in points) == [0, 2]
    assert [point.generator for point in points if point.epsilon == 0] == [True]
    assert any(point.on_front for point in points if point.epsilon == 0)


def test_a_private_run_says_what_it_spent_and_what_that_leaves_out(outcome: Outcome) -> None:
    pages = [(outcome.folder(row) / "report.html").read_text() for row in outcome.finished]
    private = [page for page in pages if "Epsilon by site" in page]
    assert len(private) == 1
    for page in private:
        assert "one image, added or removed, at one site" in page
        assert "the search for hyper-parameters" in page
        assert "0.001" in page


def test_every_cell_of_a_study_of_privacy_is_attacked_and_its_table_says_so(outcome: Outcome, tmp_path: Path) -> None:
    for row in outcome.finished:
        assert row.membership == membership_auroc(outcome.folder(row))
        assert 0.3 < row.membership < 0.7, "two steps on a few images remember nothing"
    rows = [dict(line.cells) for line in attack_table(outcome, arms_of(outcome)).rows]
    assert [line["epsilon"].text for line in rows] == ["0", "2"]
    page = (outcome.output / "report.html").read_text()
    assert "Membership attacks" in page
    write_csv(tmp_path / "results.csv", outcome.finished, list(outcome.finished[0].settings))
    assert {row.membership for row in outcome.finished} == {
        row.membership for row in read_csv(tmp_path / "results.csv", outcome.plan.cells, METHOD_VERSION).values()
    }


def test_a_cell_from_before_the_attack_is_attacked_when_the_study_goes_on(outcome: Outcome) -> None:
    row = outcome.finished[0]
    file = outcome.folder(row) / "result.json"
    older = json.loads(file.read_text())
    del older["membership"]
    file.write_text(json.dumps(older))
    again = run_study(outcome.plan, outcome.output, 1)
    assert again.rows[row.config_sha256].membership == row.membership
    assert json.loads(file.read_text())["membership"] == row.membership


def test_attack_success_is_the_best_attack_of_each_audited_site(outcome: Outcome) -> None:
    row = outcome.finished[0]
    assert attack_success(outcome, [replace(row, membership=None)]) is None
    assert attack_success(outcome, [row]) == row.membership
    for site, areas in (("0", (0.5, 0.7)), ("1", (0.6,))):
        file = outcome.folder(row) / "sites" / site / "audit" / "audit.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        numbers = [{"attack": "a", "auroc": {"value": area, "low": 0, "high": 1}} for area in areas]
        file.write_text(json.dumps({"facts": {}, "audits": {"membership": {"lines": [], "numbers": numbers}}}))
    assert attack_success(outcome, [row]) == pytest.approx((0.7 + 0.6) / 2)
