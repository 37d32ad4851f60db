"""Kill -9 at random moments: what was released never exceeds what the ledger says was spent."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpssl_fed.privacy.ledger import Ledger, PlannedRun
from mpssl_fed.privacy.ledger_files import MissingLedgerError

SITE = """
import os, sys
from mpssl_fed.privacy.ledger import Ledger
ledger, released = Ledger(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(1, b"ready")
number = 0
while True:
    number += 1
    ledger.reserve("chest", "run", number, {(1.5, 0.02): 3, (6.0, 0.02): 1}, lambda spent: None)
    for _ in range(3):
        os.write(released, b"gradient ")
    os.write(released, b"feature ")
"""


def kill_often(folder: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill a site ``kills`` times, on one ledger that is started anew every 100 kills; return (released, spent) in all."""
    rng = random.Random(seed)
    released_in_all = spent_in_all = 0
    for k in range(kills):
        if k % 100 == 0:
            path, log = folder / f"{k}.sqlite", folder / f"{k}.released"
            ledger = Ledger.create(path)
            plan = {(1.5, 0.02): 10**9, (6.0, 0.02): 10**9}
            ledger.begin_run("chest", "run", PlannedRun({}, "c", plan, "end-to-end"), lambda spent: "shared")
            log.touch()
            before = 0
        with subprocess.Popen([sys.executable, "-c", SITE, path, log], stdout=subprocess.PIPE) as site:
            assert site.stdout is not None
            assert site.stdout.read(5) == b"ready"
            time.sleep(rng.uniform(0, 0.2))
            site.kill()
        ledger.verify()
        words = log.read_text().split()
        spent = ledger.spent("chest").history
        assert spent.get((1.5, 0.02), 0) >= words.count("gradient")
        assert spent.get((6.0, 0.02), 0) >= words.count("feature")
        unfinished = k % 100 + 1
        assert spent.get((6.0, 0.02), 0) <= words.count("feature") + unfinished
        released_in_all += len(words) - before
        before = len(words)
        if k % 100 == 99 or k == kills - 1:
            spent_in_all += sum(spent.values())
    return released_in_all, spent_in_all


def test_thirty_kills_lose_no_reservation(tmp_path: Path) -> None:
    released, spent = kill_often(tmp_path, 30, seed=0)
    assert 30 < released <= spent


@pytest.mark.slow
def test_a_thousand_kills_lose_no_reservation(tmp_path: Path) -> None:
    released, spent = kill_often(tmp_path, 1000, seed=1)
    assert 1000 < released <= spent


MAKER = """
import os, sys
from mpssl_fed.privacy.ledger import Ledger
os.write(1, b"ready")
for number in range(10**6):
    os.mkdir(f"{sys.argv[1]}/{number}")
    Ledger.create(f"{sys.argv[1]}/{number}/l")
"""


def test_a_kill_while_a_ledger_is_made_leaves_no_site_stuck(tmp_path: Path) -> None:
    rng, unfinished = random.Random(2), 0
    for k in range(12):
        folder = tmp_path / str(k)
        folder.mkdir()
        with subprocess.Popen([sys.executable, "-c", MAKER, folder], stdout=subprocess.PIPE) as maker:
            assert maker.stdout is not None
            assert maker.stdout.read(5) == b"ready"
            time.sleep(rng.uniform(0, 0.1))
            maker.kill()
        last = folder / str(len(list(folder.iterdir())) - 1) / "l" if any(folder.iterdir()) else folder / "l"
        ledger = Ledger(last)
        if not ledger.files.absent:
            assert ledger.verify() == 1
            continue
        unfinished += 1
        with pytest.raises(MissingLedgerError):
            ledger.rows()
        assert Ledger.create(last).verify() == 1
        assert not ledger.files.unfinished.exists()
    assert unfinished, "no kill hit the making of a ledger"
