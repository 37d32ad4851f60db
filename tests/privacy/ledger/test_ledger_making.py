"""How a ledger comes to be: a crash at any line of its making leaves no site stuck, and nothing takes the place of a full one."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.ledger_files import LedgerError, MissingLedgerError, RolledBackError
from tests.patience import PATIENCE_S
from tests.privacy.conftest import reserve
from tests.privacy.ledger.crash import HISTORY


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder whose writes cost nothing, where there is such a file system: a killed process leaves the same files on any."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def crash_everywhere(folder: Path, prepare: str, action: str) -> list[Path]:
    """Return ledgers that an action was killed on, one for each state of the files that a kill left; the last is whole."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.privacy.ledger.crash", str(folder), prepare, action],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    died = int(done.stdout)
    assert died > 50
    return list({_left(folder / str(line)): folder / str(line) / "l" for line in range(1, died + 2)}.values())


def _left(folder: Path) -> tuple[tuple[str, int, bytes], ...]:
    """Return what tells what one kill left from what another did; of a database its size and SQLite's count of changes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path.relative_to(folder)), path.stat().st_size, _gist(path)) for path in files)


def _gist(path: Path) -> bytes:
    return path.read_bytes()[24:28] if path.name in ("l", "l.new") else path.read_bytes()[:12] if "head" in path.name else b""


@pytest.mark.parametrize("where", ["beside", "elsewhere"])
def test_a_crash_at_any_line_of_its_making_leaves_nothing_or_a_ledger(memory: Path, where: str) -> None:
    states = set()
    for path in crash_everywhere(memory, "nothing", "make" if where == "elsewhere" else "make_beside"):
        head = path.with_name("elsewhere") / "head" if where == "elsewhere" else None
        ledger = Ledger(path, head)
        states.add(path)
        if ledger.files.absent:
            with pytest.raises(MissingLedgerError):
                ledger.rows()
            ledger.make()
        assert ledger.verify() == 1
        assert Ledger(path).verify() == 1  # where the head lives it knows by itself
        ledger.mark_unaccounted("chest", "run", "scope off")
        assert not ledger.files.absent
        with pytest.raises(LedgerError, match="exists already"):
            Ledger.create(path, head)
        assert not ledger.files.fresh.exists()
    assert len(states) >= 4


def test_a_crash_at_any_line_of_a_reservation_loses_none(memory: Path) -> None:
    counts = []
    for path in crash_everywhere(memory, "charged", "reserve"):
        ledger = Ledger(path)
        ledger.verify()
        counts.append(sum(ledger.spent("chest").history.values()))
        reserve_again = ledger.reserve("chest", "run", 3, HISTORY, lambda spent: None)
        assert reserve_again == ledger.verify()
        assert sum(ledger.spent("chest").history.values()) == counts[-1] + 4
    assert counts == sorted(counts), "once it stands it stands"
    assert (counts[0], counts[-1]) == (4, 8)


def test_a_crash_at_any_line_of_a_move_leaves_the_head_in_one_place(memory: Path) -> None:
    places = set()
    for path in crash_everywhere(memory, "charged", "move_head"):
        target = path.with_name("elsewhere") / "head"
        ledger = Ledger(path)
        ledger.verify()
        places.add(ledger.files.head)
        if ledger.files.head_beside:
            target.parent.mkdir(exist_ok=True)
            ledger.move_head(target)
        ledger.reserve("chest", "run", 3, HISTORY, lambda spent: None)
        assert Ledger(path, target).verify() == Ledger(path).verify() == 5
    assert {place.name for place in places} == {"head", "l.head"}


def test_a_mark_of_a_cut_short_creation_beside_a_full_ledger_means_nothing(ledger: Ledger) -> None:
    """An old `.unfinished` that a backup or another program brings back: version 0.1 deleted ledger, key and head for it."""
    reserve(ledger)
    truth = ledger.spent("chest").history
    ledger.files.unfinished.touch()
    again = Ledger(ledger.files.database)
    assert not again.files.absent
    with pytest.raises(LedgerError, match="exists already"):
        Ledger.create(ledger.files.database)
    assert again.spent("chest").history == truth
    reserve(again)
    assert not ledger.files.unfinished.exists()
    assert again.verify() == 4


@pytest.mark.parametrize("lost", ["database", "database, its head put back to the first row", "a damaged database"])
def test_a_mark_makes_no_ledger_that_was_lost_start_anew(ledger: Ledger, lost: str) -> None:
    first = Ledger.create(ledger.files.database.with_name("other")).files
    reserve(ledger)
    ledger.files.unfinished.touch()
    if lost == "a damaged database":
        ledger.files.database.write_bytes(b"\0" * 20_000)
    else:
        ledger.files.database.unlink()
    if "put back" in lost:
        shutil.copy(first.database, ledger.files.database)
    assert not ledger.files.absent
    for use in (ledger.rows, ledger.make, lambda: reserve(ledger)):
        with pytest.raises(LedgerError):
            use()


def test_what_version_0_1_left_of_a_creation_is_made_anew(tmp_path: Path) -> None:
    """Its order was mark, key, database, head: each state in which a kill could leave them."""
    whole = Ledger.create(tmp_path / "whole").files
    parts = [whole.key, whole.database, whole.head]
    for number in range(4):
        files = Ledger(tmp_path / f"{number}" / "l").files
        files.database.parent.mkdir()
        files.unfinished.touch()
        for part, target in list(zip(parts, (files.key, files.database, files.head), strict=True))[:number]:
            shutil.copy(part, target)
        assert files.absent, number
        with pytest.raises(MissingLedgerError):
            Ledger(files.database).rows()
        assert Ledger.create(files.database).verify() == 1
        assert not files.unfinished.exists()
    files = Ledger(tmp_path / "empty").files
    files.unfinished.touch()
    files.database.touch()  # killed before SQLite wrote its first page
    assert files.absent
    assert Ledger.create(files.database).verify() == 1


@pytest.mark.parametrize("charged", [False, True])
def test_every_loss_of_files_is_told_from_a_creation_that_was_cut_short(tmp_path: Path, charged: bool) -> None:
    """Nothing of a charged ledger may be missing but all of it; of one that holds nothing, what was never charged may."""
    original = Ledger.create(tmp_path / "o" / "l")
    if charged:
        original.mark_unaccounted("chest", "run", "scope off")
    for kept in itertools.product((False, True), repeat=3):
        path = tmp_path / "".join("01"[one] for one in kept) / "l"
        shutil.copytree(tmp_path / "o", path.parent)
        ledger = Ledger(path)
        for part, keep in zip((ledger.files.database, ledger.files.key, ledger.files.head), kept, strict=True):
            if not keep:
                part.unlink()
        database, _, head = kept
        fresh = not any(kept) or (head and not database and not charged)
        assert ledger.files.absent == fresh, (charged, kept)
        if all(kept):
            ledger.verify()
        elif not fresh:
            for use in (ledger.verify, ledger.make):
                with pytest.raises(LedgerError):
                    use()


def test_two_processes_make_one_ledger(tmp_path: Path) -> None:
    script = "import sys; from mpssl_fed.privacy.ledger import Ledger; Ledger.create(sys.argv[1])"
    makers = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "l"], stderr=subprocess.DEVNULL) for _ in range(4)]
    assert sorted(maker.wait(timeout=PATIENCE_S) for maker in makers) == [0, 1, 1, 1]
    assert Ledger(tmp_path / "l").verify() == 1


def test_a_ledger_lost_whole_starts_anew_unless_its_head_lives_elsewhere(tmp_path: Path) -> None:
    """What docs/privacy.md says of a backup that takes both back; the head on another disk remembers."""
    for head in (None, tmp_path / "disk" / "head"):
        path = tmp_path / ("a" if head else "b") / "l"
        ledger = Ledger.create(path, head)
        shutil.copytree(path.parent, path.parent.with_name("copy"))
        ledger.mark_unaccounted("chest", "run", "scope off")
        shutil.rmtree(path.parent)
        shutil.move(path.parent.with_name("copy"), path.parent)
        if head is None:
            assert not Ledger(path).spent("chest").unaccounted
        else:
            with pytest.raises(RolledBackError, match=str(head)):
                Ledger(path).spent("chest")
        shutil.rmtree(path.parent)
        assert Ledger(path, head).files.absent == (head is None)
