"""What the page says of a run, a study and a site, while it goes on, after it, and where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.livepage.curve import curve
from mpssl_fed.livepage.of_run import view_of_run
from mpssl_fed.livepage.of_site import view_of_site
from mpssl_fed.livepage.of_study import StudyView
from mpssl_fed.livepage.place import Latest
from mpssl_fed.livepage.view import View, pieces
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.runs.lock import holding
from mpssl_fed.study.folder import STUDY_FILE, failure_file
from mpssl_fed.study.measured import row_of_run
from mpssl_fed.study.results import Row, write_result
from tests.runs.test_lock import another_process
from tests.study.runs import plan_of, write_run


def stated(folder: Path, status: str, **more: str) -> Path:
    """Let a run's manifest say how it is."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"status": status} | more))
    return folder


def cut(folder: Path, rounds: int) -> Path:
    """Leave the first ``rounds`` rounds, and the initial model."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[: rounds + 1]))
    return folder


def text(view: View) -> str:
    return " ".join(pieces(view).values())


def test_a_run_that_goes_on_says_how_far_it_is_and_what_is_left(tmp_path: Path) -> None:
    run = stated(cut(write_run(tmp_path / "run", [0.1, 0.2, 0.5, 0.6, 0.7]), 2), "running")
    with another_process(run):
        view = view_of_run(run)
    facts = dict(view.facts)
    assert view.finding == "Round 3 of 4 is going on."
    assert (facts["round"], facts["test accuracy"], facts["time of rounds"]) == ("2 of 4", "50.0 %", "4 s")
    assert facts["time left"] in ("about 3 s", "about 2 s", "about 1 s", "longer than the last rounds took")
    assert "a weight or number is not finite" in text(view)  # what the code of the round-2 reply means
    assert 'aria-label="Test accuracy (%): base' in view.curve.replace("mp-ssl", "base")


def test_a_run_that_was_killed_or_failed_is_not_said_to_go_on(tmp_path: Path) -> None:
    run = stated(cut(write_run(tmp_path / "run", [0.1, 0.2, 0.5]), 1), "running")
    assert view_of_run(run).finding.startswith("No process writes here any more: it ended after round 1 of 2.")
    failed = view_of_run(stated(run, "failed", error="no site answered in 3 rounds"))
    assert failed.finding.startswith("Failed after round 1 of 2.")
    assert failed.warnings == ["no site answered in 3 rounds"]
    assert view_of_run(stated(write_run(tmp_path / "done", [0.1, 0.2]), "finished")).finding == "Finished after 1 round."


def test_what_cannot_be_read_now_stands_on_the_page_and_the_next_look_shows_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.1, 0.2])
    whole = (run / "config.yaml").read_text()
    latest = Latest(lambda: view_of_run(run), "run")
    (run / "config.yaml").unlink()
    assert "This cannot be shown now." in latest()["finding"]
    (run / "config.yaml").write_text(whole)
    latest._read = float("-inf")
    assert "Finished after 1 round." in latest()["finding"]


ODD: dict[str, object] = {
    "test_accuracy": 1e30,
    "test_balanced_accuracy": -0.5,
    "test_auroc": "0.5",
    "test_loss": float("nan"),
    "train_loss": float("-inf"),
    "seconds": 10**400,
    "round": 10**400,
    "missing": -1,
    "sites_asked": True,
    "timings": {"train": 10**400},
    "rejected": {"policy": [1]},
}


@pytest.mark.parametrize("key", ODD)
def test_a_number_that_no_run_writes_is_named_and_not_drawn(key: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.1, 0.2, 0.5])
    first, second, *_ = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(f"{first}\n{json.dumps(json.loads(second) | {key: ODD[key]})}\n{second}\n")
    shown = Latest(lambda: view_of_run(run), "run")()
    assert "This cannot be shown now." in shown["finding"]
    assert f"line 2: &#39;{key}&#39; is missing, of a wrong type or out of its range; the file is damaged" in shown["finding"]
    assert sum(map(len, shown.values())) < 5_000


def test_texts_and_numbers_without_end_are_cut(tmp_path: Path) -> None:
    run = stated(write_run(tmp_path / "run", [0.1, 0.2, 0.5]), "failed", error="e" * 3_000_000)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    codes = {"x" * 1_000_000: 1, **{f"code-{number}": 1e300 for number in range(5_000)}}
    for line in lines[1:]:
        line.update(seconds=1e308, train_loss=-1e308, rejected=codes, note="n" * 1_000_000)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = text(view_of_run(run))
    assert len(page) < 20_000
    for told in ("over 100,000 h", "-1e+308", "... (3,000,000 characters)", "... (1,000,000 characters)", "50.0 %"):
        assert told in page
    os.truncate(run / "metrics.jsonl", 40 << 20)
    with pytest.raises(UserError, match=r"metrics\.jsonl: 40 MiB, more than the 32 that a live page reads"):
        view_of_run(run)


def test_a_study_shows_what_is_done_at_work_and_failed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "file", grid={"method.name": ["base", "vic-gssl"]}, seeds=2)
    folder = tmp_path / "study"
    for number, cell in enumerate(plan.cells[:2]):
        run = write_run(folder / "cells" / cell.id, [0.1, 0.2 + 0.1 * number, 0.5], {"method": {"name": "base"}})
        if number == 0:
            write_result(run / "result.json", row_of_run(cell, run, METHOD_VERSION, cpu_seconds=1.0, peak_memory_mb=400.0))
        else:
            stated(cut(run, 1), "running")
    (folder / STUDY_FILE).write_text(plan.to_yaml())
    failed = plan.cells[2]
    row = Row(failed.sha256, METHOD_VERSION, failed.seed, "failed", failed.settings, error="<b>memory ran out</b>")
    write_result(failure_file(folder, failed), row)
    view = StudyView(folder)
    at_work = folder / "cells" / plan.cells[1].id
    with holding(folder / "elsewhere"), another_process(at_work), another_process(folder):
        shown = view()
    facts = dict(shown.facts)
    assert (facts["runs"], facts["at work"], facts["failed"]) == ("2 of 4", "1", "1")
    assert facts["time left"].startswith("about ")
    assert shown.finding == "2 of 4 runs have ended."
    page = text(shown)
    assert "round 1 of 2" in page
    assert "failed: &lt;b&gt;memory ran out&lt;/b&gt;" in page
    assert "<b>" not in page
    assert shown.curve.count("<polyline") == 1
    stopped = view()
    assert "No process works on the rest" in stopped.finding
    assert dict(stopped.facts)["at work"] == "0"


def test_a_site_whose_daemon_is_down_says_so(tmp_path: Path) -> None:
    view = view_of_site(tmp_path)
    assert view.finding == "The daemon does not answer."
    assert "mpssl-fed site run" in view.warnings[0]


@pytest.mark.parametrize(
    "points", [[(0, 0.0)], [(0, 1.0), (900, 1.0)], [(n, n / 1000) for n in range(1000)], [(0, 0.104), (1, 0.991)]]
)
def test_a_curve_stays_inside_its_picture(points: list[tuple[int, float]]) -> None:
    drawn = curve('a "title" <b>', [("run & more", points)], points[-1][0])
    assert "<b>" not in drawn
    for pair in drawn.split('points="')[1].split('"')[0].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= 480
        assert 0 <= y <= 240
    assert curve("nothing", [("run", [])], 3) == ""


def test_a_study_s_file_that_goes_is_said(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "file", grid={"method.name": ["base"]}, seeds=1)
    (tmp_path / STUDY_FILE).write_text(plan.to_yaml())
    view = StudyView(tmp_path)
    assert dict(view().facts)["runs"] == "0 of 1"
    (tmp_path / STUDY_FILE).unlink()
    with pytest.raises((UserError, OSError)):
        view()
