"""A head on another disk or on append-only media: it remembers what a restored folder forgot, and is never left out in silence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.ledger_files import (
    LedgerError,
    LedgerFiles,
    LedgerWriteError,
    MissingLedgerError,
    RolledBackError,
    WrongHeadError,
)
from mpssl_fed.privacy.ledger_head import Head, HeadFile

KEY = bytes(32)


@pytest.fixture
def apart(tmp_path: Path) -> Ledger:
    """A ledger in site/ whose head lives in disk/, with one row beside the first."""
    ledger = Ledger.create(tmp_path / "site" / "l", tmp_path / "disk" / "head")
    ledger.mark_unaccounted("chest", "run", "scope off")
    return ledger


def rolled_back(ledger: Ledger) -> None:
    """Put the ledger's whole folder back as it was three rows ago."""
    folder = ledger.files.database.parent
    shutil.copytree(folder, folder.with_name("yesterday"))
    for run in ("a", "b", "c"):
        ledger.mark_unaccounted("chest", run, "scope off")
    shutil.rmtree(folder)
    shutil.move(folder.with_name("yesterday"), folder)


def test_database_key_and_lock_rolled_back_together_are_found(apart: Ledger) -> None:
    rolled_back(apart)
    for ledger in (apart, Ledger(apart.files.database, apart.files.head), Ledger(apart.files.database)):
        for use in (ledger.verify, lambda ledger=ledger: ledger.mark_unaccounted("chest", "d", "scope off")):
            with pytest.raises(RolledBackError, match=r"has 2 rows, its head .*/disk/head says 5"):
                use()


def test_a_ledger_knows_where_its_head_lives_and_falls_back_to_no_other(apart: Ledger) -> None:
    """Started without the option, or with the place a head usually has: neither makes a new head."""
    again = Ledger(apart.files.database)
    again.mark_unaccounted("chest", "later", "scope off")
    assert again.files.head == apart.files.head
    beside = LedgerFiles.at(apart.files.database).head
    assert not beside.exists()
    with pytest.raises(MissingLedgerError, match=f"this ledger's is {apart.files.head}"):
        Ledger(apart.files.database, beside).spent("chest")
    apart.files.head.parent.rename(apart.files.head.parent.with_name("unmounted"))
    for ledger in (Ledger(apart.files.database), apart):
        for use in (ledger.rows, lambda ledger=ledger: ledger.mark_unaccounted("chest", "x", "scope off")):
            with pytest.raises(MissingLedgerError, match="mount its disk or, where it is lost"):
                use()
    with pytest.raises(LedgerError, match="mount the head's disk"):
        Ledger(apart.files.database).book_gap({})
    assert not beside.exists()
    assert not apart.files.head.exists()
    elsewhere = apart.files.head.parent.with_name("unmounted") / "head"  # mounted at another place
    assert Ledger(apart.files.database, elsewhere).verify() == 3


def test_a_head_is_appended_to_and_never_replaced(apart: Ledger) -> None:
    lines, inode = apart.files.head.read_bytes(), apart.files.head.stat().st_ino
    for run in ("a", "b", "c"):
        apart.mark_unaccounted("chest", run, "scope off")
        now = apart.files.head.read_bytes()
        assert now.startswith(lines)
        assert len(now) > len(lines)
        lines = now
    assert apart.files.head.stat().st_ino == inode
    assert [json.loads(line)["rows"] for line in lines.splitlines()] == [1, 2, 3, 4, 5]
    assert apart.files.head.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in apart.files.head.parent.iterdir()] == ["head"], "no temporary file was made beside it"


def test_append_only_media_take_it(apart: Ledger, tmp_path: Path) -> None:
    """`chattr +a`, where the file system has it and the tests may set it."""
    head = apart.files.head
    if subprocess.run(["chattr", "+a", str(head)], check=False, capture_output=True).returncode:
        pytest.skip("no append-only files here")
    try:
        with pytest.raises(PermissionError):
            head.write_bytes(b"")
        apart.mark_unaccounted("chest", "a", "scope off")
        assert apart.verify() == 3
    finally:
        subprocess.run(["chattr", "-a", str(head)], check=True)


@given(st.lists(st.tuples(st.integers(1, 9), st.binary(max_size=40)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_writes_that_were_cut_short_hide_no_head(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, bytes]]) -> None:
    """After each whole line some bytes of one that a crash cut: the last whole one counts, and the next stands on its own line."""
    file = HeadFile(tmp_path_factory.mktemp("h") / "head", appended=True)
    for rows, cut in steps:
        file.write(KEY, Head(rows, "ab"), create=True)
        with open(file.path, "ab") as raw:
            raw.write(cut.replace(b"\n", b""))
        assert file.read(KEY) == Head(rows, "ab")
        assert file.claims() == rows


def test_a_head_with_nothing_whole_in_it_is_damaged_and_a_cut_one_behind(apart: Ledger) -> None:
    head = apart.files.head
    whole = head.read_bytes()
    head.write_bytes(whole[:-20])  # the last line lost its end: one row behind, as after a crash
    assert apart.verify() == 2
    apart.mark_unaccounted("chest", "a", "scope off")
    assert apart.verify() == 3
    first = whole.splitlines(keepends=True)[0]
    head.write_bytes(first)  # two rows behind: an older head
    with pytest.raises(WrongHeadError, match="at row 1 of 3"):
        apart.verify()
    for nothing in (b"", b"{}\n", b"\0" * 300, first[:-9]):
        head.write_bytes(nothing)
        with pytest.raises(WrongHeadError, match="damaged"):
            apart.verify()
    head.write_bytes(first.replace(b'"rows": 1', b'"rows": 3'))
    with pytest.raises(WrongHeadError, match="key"):
        apart.verify()


def test_a_head_is_moved_once_the_ledger_is_whole_and_only_by_its_owner(tmp_path: Path) -> None:
    ledger, target = Ledger.create(tmp_path / "l"), tmp_path / "disk" / "head"
    target.parent.mkdir()
    with pytest.raises(MissingLedgerError, match="move it by `ledger move-head`"):
        Ledger(ledger.files.database, target).spent("chest")  # the option alone moves nothing: that would accept any copy
    assert not target.exists()
    beside = ledger.files.head
    assert ledger.move_head(target).kind == "head"
    assert not beside.exists()
    assert ledger.files.head == target
    ledger.mark_unaccounted("chest", "a", "scope off")
    assert Ledger(ledger.files.database).verify() == Ledger(ledger.files.database, target).verify() == 3
    with pytest.raises(LedgerError, match="lies there already"):
        ledger.move_head(target)
    other = Ledger.create(tmp_path / "other", tmp_path / "disk" / "other")
    with pytest.raises(WrongHeadError, match="key"):
        ledger.move_head(other.files.head)
    second = tmp_path / "tape" / "head"
    with pytest.raises(LedgerWriteError, match="mount its disk"):
        ledger.move_head(second)
    second.parent.mkdir()
    ledger.move_head(second)
    ledger.mark_unaccounted("chest", "b", "scope off")
    with pytest.raises(WrongHeadError, match="at row 3 of 5"):
        Ledger(ledger.files.database, target).spent("chest")  # the old place is not followed any more
    assert ledger.move_head(beside).body["head"] is None
    assert Ledger(ledger.files.database).verify() == 6
    assert Ledger(ledger.files.database).files.head == beside


def test_a_lost_head_is_booked_and_a_new_place_is_remembered(apart: Ledger, tmp_path: Path) -> None:
    shutil.rmtree(apart.files.head.parent)
    (tmp_path / "tape").mkdir()
    row = Ledger(apart.files.database, tmp_path / "tape" / "head").book_gap({(1.5, 0.1): 3})
    assert row.body["head"] == str(tmp_path / "tape" / "head")
    assert "head unreadable" in row.body["note"]
    again = Ledger(apart.files.database)
    assert again.verify() == 3
    assert again.files.head == tmp_path / "tape" / "head"
    assert again.spent("chest").history == {(1.5, 0.1): 3}


def test_a_folder_rolled_back_behind_the_move_is_found_by_who_names_the_head(tmp_path: Path) -> None:
    """The backup is whole in itself, head and all; only the head on the other disk knows better."""
    ledger = Ledger.create(tmp_path / "site" / "l")
    shutil.copytree(tmp_path / "site", tmp_path / "backup")
    (tmp_path / "disk").mkdir()
    ledger.move_head(tmp_path / "disk" / "head")
    ledger.mark_unaccounted("chest", "run", "scope off")
    shutil.rmtree(tmp_path / "site")
    shutil.move(tmp_path / "backup", tmp_path / "site")
    with pytest.raises(RolledBackError, match="has 1 rows"):
        Ledger(ledger.files.database, tmp_path / "disk" / "head").spent("chest")


FULL = """
import resource, signal, sys
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.ledger_files import LedgerWriteError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    Ledger(sys.argv[1]).mark_unaccounted("chest", "a", "scope off")
except LedgerWriteError as error:
    print("head cannot be written" in str(error))
"""


@pytest.mark.parametrize("room", [0, 1, 50])
def test_a_full_disk_of_the_head_stops_before_any_read_and_is_made_good(apart: Ledger, room: int) -> None:
    """The system refuses writes beyond a file size. The row stands, the head is one behind: the next call mends that first."""
    head = apart.files.head
    head.write_bytes(b"-\n" * 50_000 + head.read_bytes())  # larger than the database will be
    words = [sys.executable, "-c", FULL, apart.files.database, str(head.stat().st_size + room)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "True\n"
    assert apart.verify() == 3
    apart.mark_unaccounted("chest", "b", "scope off")
    assert apart.verify() == 4
