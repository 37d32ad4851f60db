"""A ledger that a process keeps: its chain is checked once, its end each time, all of it again when anybody else touched it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed.privacy import ledger_store
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.ledger_books import read_books
from mpssl_fed.privacy.ledger_files import CutTailError, EditedRowError, RolledBackError
from tests.privacy.conftest import reserve

PER_ROUND = 12


@pytest.fixture
def whole_checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of rows at each check of a whole chain."""
    seen: list[int] = []

    def counting(*words: object, **more: object) -> object:
        books = read_books(*words, **more)  # type: ignore[arg-type]
        seen.append(books.count)
        return books

    monkeypatch.setattr(ledger_store, "read_books", counting)
    return seen


def test_what_a_call_costs_does_not_grow_with_the_rows(ledger: Ledger, whole_checks: list[int]) -> None:
    kept = Ledger(ledger.files.database)
    for _ in range(20):
        reserve(kept)
        kept.add_records("chest", [b"one"])
    assert whole_checks == [2]
    assert kept.spent("chest").history == {(1.5, 0.02): 20 * PER_ROUND}
    assert whole_checks == [2]
    assert kept.verify() == 23
    assert whole_checks == [2, 23]


def test_what_another_process_writes_is_seen_at_once(ledger: Ledger, whole_checks: list[int]) -> None:
    reserve(ledger)
    script = (
        "import sys; from mpssl_fed.privacy.ledger import Ledger; "
        "Ledger(sys.argv[1]).reserve('chest', 'run', 1, {(1.5, 0.02): 12}, lambda spent: None)"
    )
    subprocess.run([sys.executable, "-c", script, ledger.files.database], check=True)
    assert ledger.spent("chest").history == {(1.5, 0.02): 2 * PER_ROUND}
    Ledger(ledger.files.database).mark_unaccounted("chest", "other", "scope off")
    assert ledger.spent("chest").unaccounted
    assert whole_checks[-1] == 5
    assert ledger.verify() == 5


def edit(path: Path, statement: str) -> None:
    """Change the file behind the ledger's back."""
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(f"DROP TRIGGER no_update; DROP TRIGGER no_delete; {statement}")
    db.close()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE rows SET body = replace(body, '12', '11') WHERE seq = 3", EditedRowError),
        ("DELETE FROM rows WHERE seq = 5", CutTailError),
        ("UPDATE last SET seq = 4", CutTailError),
        ("DELETE FROM rows WHERE seq = 5; UPDATE last SET seq = 4, mac = (SELECT mac FROM rows WHERE seq = 4)", RolledBackError),
    ],
)
def test_a_process_that_has_checked_once_still_finds_what_is_changed(
    ledger: Ledger, statement: str, error: type[Exception]
) -> None:
    for _ in range(3):
        reserve(ledger)
    edit(ledger.files.database, statement)
    for use in (lambda: ledger.spent("chest"), lambda: reserve(ledger), ledger.verify):
        with pytest.raises(error):
            use()


def test_a_copy_put_back_under_a_running_process_is_found(ledger: Ledger, tmp_path: Path) -> None:
    reserve(ledger)
    for part in (ledger.files.database, ledger.files.head):
        shutil.copy2(part, tmp_path / f"{part.name}.old")
    reserve(ledger)
    reserve(ledger)
    head = ledger.files.head.read_bytes()
    shutil.copy2(tmp_path / f"{ledger.files.database.name}.old", ledger.files.database)
    with pytest.raises(RolledBackError):
        reserve(ledger)
    shutil.copy2(tmp_path / f"{ledger.files.head.name}.old", ledger.files.head)  # the head with it: whole, but this process knows
    for use in (lambda: reserve(ledger), lambda: ledger.spent("chest"), ledger.verify):
        with pytest.raises(RolledBackError, match="this process has seen row 5"):
            use()
    Ledger(ledger.files.database).book_gap({(1.5, 0.02): 24})  # by the owner, who knows of none: rows 3 to 3
    with pytest.raises(RolledBackError):
        ledger.spent("chest")
    ledger.files.head.write_bytes(head)
    Ledger(ledger.files.database).book_gap({(1.5, 0.02): 0})
    assert ledger.spent("chest").history == {(1.5, 0.02): 36}
    reserve(ledger)


def test_a_refused_reservation_leaves_what_is_known_as_it_was(ledger: Ledger, whole_checks: list[int]) -> None:
    def refuse(spent: object) -> None:
        raise RuntimeError

    reserve(ledger)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            ledger.reserve("chest", "run", 1, {(1.5, 0.02): 12}, refuse)
    assert ledger.spent("chest").history == {(1.5, 0.02): PER_ROUND}
    reserve(ledger)
    assert ledger.spent("chest").history == {(1.5, 0.02): 2 * PER_ROUND} == Ledger(ledger.files.database).spent("chest").history
    assert ledger.verify() == 4


def test_threads_share_one_object(ledger: Ledger) -> None:
    """As a daemon does: one trains, others answer its owner."""
    seen: list[int] = []

    def watch() -> None:
        seen.extend(sum(ledger.spent("chest").history.values()) for _ in range(20))

    threads = [threading.Thread(target=watch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        reserve(ledger)
    for thread in threads:
        thread.join()
    assert set(seen) <= {n * PER_ROUND for n in range(11)}
    assert ledger.spent("chest").history == {(1.5, 0.02): 10 * PER_ROUND}
    assert ledger.verify() == 12


def test_what_was_told_does_not_change_afterwards(ledger: Ledger) -> None:
    reserve(ledger)
    told = ledger.spent("chest")
    reserve(ledger)
    assert told.history == {(1.5, 0.02): PER_ROUND} == told.runs["run"].reserved
    told.history.clear()
    told.runs.clear()
    assert ledger.spent("chest").history == {(1.5, 0.02): 2 * PER_ROUND}
    assert set(ledger.spent("chest").runs) == {"run"}
