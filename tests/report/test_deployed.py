"""The report of a deployment holds what crossed a site's egress, whatever of the sites' own lies in the run directory."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from mpssl_fed.config import from_mapping
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.report.privacy_section import spent_by_site
from mpssl_fed.report.run_report import write_run_report
from tests.study.runs import write_run

PRIVATE = {
    "method": {"name": "mp-ssl"},
    "federation": {"sites": 3, "rounds": 1, "local_steps": 2, "backend": "deployment"},
    "privacy": {"epsilon": 2.0, "public_size": 100, "delta": 1e-4},
}


def test_nothing_of_a_deployed_site_is_on_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [0.1, 0.5], PRIVATE)
    pictures = [base64.b64encode(file.read_bytes()).decode() for file in folder.glob("sites/*/samples.png")]
    assert len(pictures) == 3
    counts = json.loads((folder / "labels.json").read_text())
    (folder / "labels.json").write_text(json.dumps(counts | {"classes": [f"secret-{n}" for n in range(10)]}))
    ledger = Ledger.create(folder / "sites" / "0" / "ledger.sqlite")
    ledger.mark_unaccounted("mnist-5k", "other", "a reason of the owner's")
    page = write_run_report(folder).read_text()
    for private in (*pictures, "secret-", "a reason of the owner"):
        assert private not in page
    assert "Who holds what" in page
    assert "In a deployment this stays at the sites" in page
    assert "deployment&#39;s sites keep to themselves" in page
    assert "50.0 %" in page  # what the server measured itself
    assert "Who answered" in page


def test_a_simulation_shows_all_of_that(tmp_path: Path) -> None:
    simulated = PRIVATE | {"federation": PRIVATE["federation"] | {"backend": "inprocess"}}  # type: ignore[operator]
    folder = write_run(tmp_path / "run", [0.1, 0.5], simulated)
    Ledger.create(folder / "sites" / "0" / "ledger.sqlite").mark_unaccounted("mnist-5k", "other", "a reason of the owner's")
    page = write_run_report(folder).read_text()
    assert "a reason of the owner" in page
    assert page.count("data:image/png") == 4
    config = from_mapping(simulated)
    assert len(spent_by_site(folder, config, plan_for(config).delta)) == 1
