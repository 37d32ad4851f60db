"""A ledger under a full disk, two writers and a fork, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mpssl_fed.privacy.ledger import Ledger
from tests.patience import PATIENCE_S
from tests.privacy.conftest import reserve

FULL = """
import resource, signal, sys
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.ledger_files import LedgerWriteError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
ledger = Ledger(sys.argv[1])
for number in range(1, 1000):
    try:
        ledger.reserve("chest", "run", number, {(1.5, 0.02): 1}, lambda spent: None)
    except LedgerWriteError as error:
        print("full", number - 1)
        break
"""


@pytest.mark.parametrize("room", [0, 40])
def test_a_full_disk_reserves_nothing_and_harms_nothing(ledger: Ledger, room: int) -> None:
    """The system refuses writes beyond a file size, as a full disk would; with no room even the journal fails."""
    size = ledger.files.database.stat().st_size
    limit = 100 if room == 0 else size + room * 100
    told = subprocess.run(
        [sys.executable, "-c", FULL, ledger.files.database, str(limit)], capture_output=True, text=True, check=True
    )
    word, granted = told.stdout.split()
    assert word == "full"
    assert int(granted) < 999
    assert ledger.spent("chest").history.get((1.5, 0.02), 0) in (int(granted), int(granted) + 1)  # one unfinished at most
    reserve(ledger)
    ledger.verify()


WRITER = """
import sys
from mpssl_fed.privacy.ledger import Ledger
class Spent(Exception): pass
def judge(spent):
    if spent.history.get((1.5, 0.02), 0) >= 30:
        raise Spent
ledger, granted = Ledger(sys.argv[1]), 0
for number in range(25):
    try:
        ledger.reserve("chest", "run", number, {(1.5, 0.02): 1}, judge)
        granted += 1
    except Spent:
        pass
print(granted)
"""


def test_two_writers_share_one_budget(ledger: Ledger) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, ledger.files.database], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    granted = [int(writer.communicate(timeout=PATIENCE_S)[0]) for writer in writers]
    assert sum(granted) == 30
    assert ledger.spent("chest").history == {(1.5, 0.02): 30}
    assert ledger.verify() == 32


def test_a_fork_may_go_on_with_the_parents_ledger(ledger: Ledger) -> None:
    reserve(ledger)
    script = f"""
import os
from mpssl_fed.privacy.ledger import Ledger
ledger = Ledger({str(ledger.files.database)!r})
def one():
    ledger.reserve("chest", "run", 2, {{(1.5, 0.02): 1}}, lambda spent: None)
one()
child = os.fork()
one()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
    assert ledger.spent("chest").history[1.5, 0.02] == 12 + 3
    assert ledger.verify() == 6
