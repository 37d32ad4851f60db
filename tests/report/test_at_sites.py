"""The report tells what the sites told: each share with its interval, and who did not tell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.federation.server.confusion import told
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.runs import at_sites, progress
from mpssl_fed.runs.reader import read_history
from mpssl_fed.runs.rounds import Round
from mpssl_fed.runs.run_directory import RunDirectory
from tests.federation.conftest import run_tiny

__all__ = ["run_tiny"]
FEW, MANY = np.array([[1.0, -3.0], [2.0, 0.5]]), np.array([[900.0, 100.0], [40.0, 160.0]])


def line_of(found: dict) -> dict:
    return Round(3, at_sites=found | {"asked": 3, "missing": 0, "rejected": {"budget": 1}}).to_json()


def test_shares_stand_with_their_intervals_and_noise_hides_others() -> None:
    found = Round.from_json(line_of(told({0: (MANY, 5.0), 4: (FEW, 30.0)}, ["healthy", "sick"], "subject")), "here").at_sites
    assert found is not None
    lines = at_sites.lines(3, found)
    assert lines[0] == (
        "at the sites after round 3: 2 of 3 told (subjects, each count with noise of std 5 to 30; 95 % interval); not: 1 budget"
    )
    share = found["sites"]["0"]["accuracy"]
    assert f"  site 0: accuracy 0.883 ({share[1]:.3f} to {share[2]:.3f})" in lines
    assert 0.85 < share[1] < 0.883 < share[2] < 0.92
    assert "  site 4: accuracy too few to tell" in lines
    rows = at_sites.rows(found)
    assert [row[0] for row in rows] == ["all sites"] * 3 + ["site 0"] * 3 + ["site 4"] * 3
    assert rows[5][1:] == ["sick", at_sites.interval(found["sites"]["0"]["sensitivity"][1]), rows[5][3]]
    nobody = line_of(told({}, ["healthy", "sick"], "image"))["at_sites"]
    assert len(at_sites.lines(3, nobody)) == 1
    assert at_sites.rows(nobody) == []


@pytest.mark.parametrize("damage", [7, [], {}, {"unit": "image"}, {"sites": {"0": {}}, "pooled": None}])
def test_a_damaged_line_is_refused(damage: object) -> None:
    good = line_of(told({0: (MANY, 0.0)}, ["healthy", "sick"], "image"))
    broken = damage if not isinstance(damage, dict) or "sites" not in damage else good["at_sites"] | damage
    with pytest.raises(UserError, match="'at_sites' is missing, of a wrong type or out of its range"):
        Round.from_json(good | {"at_sites": broken}, "metrics.jsonl, line 4")


def test_the_page_of_a_run_has_every_share(run_tiny: Callable[..., RunDirectory]) -> None:
    run = run_tiny("federation.evaluate_at_sites.times=1", "data.labels_per_class=10", "federation.local_steps=1")
    found = read_history(run.folder)[-1].at_sites
    assert found is not None
    page = write_run_report(run.folder).read_text(encoding="utf-8")
    assert "At the sites" in page
    assert all(cell in page for row in at_sites.rows(found) for cell in row)
    assert "images, exact counts" in page
    printed: list[str] = []
    progress.Lines(printed.append).round(read_history(run.folder)[-1])
    assert printed[1:] == at_sites.lines(2, found)
