"""A ledger's rows, checked once and summed up: what a process remembers of them until the file is touched by another."""

from __future__ import annotations

import hmac
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpssl_fed.privacy.ledger_errors import (
    CutTailError,
    DeletedRowError,
    EditedRowError,
    RolledBackError,
    WrongHeadError,
)
from mpssl_fed.privacy.ledger_head import Head
from mpssl_fed.privacy.ledger_records import Records, digest_of
from mpssl_fed.privacy.ledger_rows import ALL, Row, Tally, row_mac

HEAD = "head"
"""Key of the body of a created, head or gap row that says where the head lives: a path, or null for beside the database."""


@dataclass
class Books:
    """All rows of a ledger, added up: totals, records, and where the head lives (None: beside the database).

    unaccounted: (data set, run) of what was read outside the accounting; booked: up to which row a gap was booked; first, before,
    last: the first row and the last two.
    """

    rows: list[Row] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    records: Records = field(default_factory=Records)
    unaccounted: set[tuple[str, str]] = field(default_factory=set)
    booked: int = 0
    head: str | None = None
    count: int = 0
    first: Row | None = None
    before: Row | None = None
    last: Row | None = None
    keep_rows: bool = False

    def add(self, row: Row, macs: Iterable[bytes] = ()) -> None:
        """Take in the next row, and the records that came with it."""
        self.first = self.first or row
        self.before, self.last = self.last, row
        self.count += 1
        self.tally.add(row)
        self.records.add(row, macs)
        if row.kind == "unaccounted":
            self.unaccounted.add((row.dataset, row.run))
        if row.kind == "gap":
            self.booked = int(row.body["to"])
        if HEAD in row.body and row.dataset == ALL:
            self.head = row.body[HEAD]
        if self.keep_rows:
            self.rows.append(row)

    @property
    def seq(self) -> int:
        """Number of the last row."""
        assert self.last is not None
        return self.last.seq

    @property
    def mac(self) -> str:
        """MAC of the last row, in hex."""
        assert self.last is not None
        return self.last.mac

    @property
    def end(self) -> Head:
        """The head that belongs to the last row."""
        return Head(self.seq, self.mac)

    @property
    def ends(self) -> tuple[Head, ...]:
        """The heads that may be found: of the last row or, when a process died between its commit and its head, the one before."""
        return (self.end,) if self.before is None else (self.end, Head(self.before.seq, self.before.mac))


def read_books(db: sqlite3.Connection, key: bytes, path: Path, keep_rows: bool = False) -> Books:
    """Return the books of a database whose chain and records hold; the named error where they do not.

    keep_rows: keep each row too, for a reader that shows them.
    """
    records = _records(db)
    books = Books(keep_rows=keep_rows)
    for row in _chain(db, key, path):
        macs = records.get((row.seq, row.dataset), set()) if row.kind == "records" else set()
        if row.kind == "records" and digest_of(macs) != row.body["sha256"]:
            raise EditedRowError(f"{path}: the records of row {row.seq} were changed; bring a backup back by `ledger restore`")
        books.add(row, macs)
    if books.last is None:
        raise CutTailError(f"{path}: holds no row; bring a backup back by `ledger restore`")
    return books


def check_end(db: sqlite3.Connection, books: Books, head: Head, path: Path, head_path: Path) -> None:
    """Hold the books against the number and MAC of the last row that stand in the database and in the head."""
    seq, mac = db.execute("SELECT seq, mac FROM last").fetchone() or (0, b"")
    if (seq, bytes(mac).hex() if isinstance(mac, bytes) else mac) != (books.seq, books.mac):
        raise CutTailError(f"{path}: ends at row {books.seq}, was written up to {seq}; run `ledger restore` to book the gap")
    if head.rows > seq:
        raise RolledBackError(
            f"{path}: has {seq} rows, its head {head_path} says {head.rows}: an earlier copy; run `ledger restore` to book the gap"
        )
    if head not in books.ends:
        raise WrongHeadError(f"{head_path}: at row {head.rows} of {seq}, not of this ledger's last two; run `ledger restore`")


def check_goes_on(db: sqlite3.Connection, books: Books, seen: Head, path: Path) -> None:
    """RolledBackError where the rows do not go on from the last that this process has seen, and no gap was booked for it."""
    row = db.execute("SELECT mac FROM rows WHERE seq = ?", (seen.rows,)).fetchone()
    if (row is None or row[0].hex() != seen.mac) and books.booked < seen.rows:
        raise RolledBackError(
            f"{path}: ends at row {books.seq}, this process has seen row {seen.rows}: an earlier copy, its head with it; run "
            "`ledger restore` to book the gap"
        )


def _chain(db: sqlite3.Connection, key: bytes, path: Path) -> Iterator[Row]:
    """Yield the rows, each checked against the one before."""
    number, previous = 0, ""
    for seq, dataset, kind, run, round_, text, time, mac in db.execute("SELECT * FROM rows ORDER BY seq"):
        expected = row_mac(key, previous, (seq, dataset, kind, run, round_, text, time))
        if not isinstance(mac, bytes) or not hmac.compare_digest(mac, expected):
            broken = EditedRowError if seq == number + 1 else DeletedRowError
            raise broken(f"{path}: row {seq} does not follow from the one before; bring a backup back by `ledger restore`")
        body: dict[str, Any] = json.loads(text)
        number, previous = seq, mac.hex()
        yield Row(seq, dataset, kind, run, round_, body, time, previous)


def _records(db: sqlite3.Connection) -> dict[tuple[int, str], set[bytes]]:
    """Return the HMACs that each row recorded, by its number and data set."""
    found: dict[tuple[int, str], set[bytes]] = {}
    for seq, dataset, mac in db.execute("SELECT seq, dataset, mac FROM records"):
        found.setdefault((seq, dataset), set()).add(mac if isinstance(mac, bytes) else repr(mac).encode())
    return found
