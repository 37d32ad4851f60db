"""A ledger with one run begun, for the tests that are not about how runs begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpssl_fed.privacy.ledger import Ledger, PlannedRun


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.create(tmp_path / "site.sqlite")
    plan = {(1.5, 0.02): 12_000}
    ledger.begin_run("chest", "run", PlannedRun({}, "c", plan, "end-to-end"), lambda spent: "shared")
    return ledger


def reserve(ledger: Ledger) -> None:
    """Reserve the first round of the run."""
    ledger.reserve("chest", "run", 1, {(1.5, 0.02): 12}, lambda spent: None)
