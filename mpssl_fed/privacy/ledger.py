"""The site's durable record of releases: rows are reserved here, on disk, before the first private read of a round.

Append-only SQLite, each row chained to the one before by an HMAC under a 0600 key; number and MAC of the last row also
stand in a second file. It guards against accident, other users and the server, not against the owner.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpssl_fed.privacy.ledger_files import (
    CutTailError,
    DeletedRowError,
    EditedRowError,
    Head,
    LedgerError,
    LedgerFiles,
    LedgerWriteError,
    OutsidePlanError,
    RolledBackError,
    SharedRecordsError,
    SwappedDataError,
    WrongHeadError,
)
from mpssl_fed.privacy.ledger_rows import ALL, History, Row, RunSpent, Spent, listed, record_mac, row_mac, spending

__all__ = ["ALL", "Ledger", "Overlap", "Row", "RunSpent", "Spent", "spending"]

SIMULATED = "simulated: runs do not compose"

_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY)
"""SQLite's codes for a disk or a lock that does not let it write; any other error means a damaged file."""

_SCHEMA = """
CREATE TABLE rows (seq INTEGER PRIMARY KEY, dataset TEXT NOT NULL, kind TEXT NOT NULL, run TEXT NOT NULL,
    round INTEGER NOT NULL, body TEXT NOT NULL, time TEXT NOT NULL, mac BLOB NOT NULL);
CREATE TABLE records (dataset TEXT NOT NULL, mac BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (dataset, mac)) WITHOUT ROWID;
CREATE TABLE last (id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, mac BLOB NOT NULL);
CREATE TRIGGER no_update BEFORE UPDATE ON rows BEGIN SELECT RAISE(ABORT, 'rows are append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON rows BEGIN SELECT RAISE(ABORT, 'rows are append-only'); END;
"""


@dataclass(frozen=True)
class Overlap:
    """How a data set's units compare with those on record: known stay, new are added, missing were there before."""

    known: int
    new: int
    missing: int


class Ledger:
    """A ledger on disk. Holds no connection: each call opens, checks the whole chain, writes at most one row and closes.

    Two processes may use one ledger; a lock orders them. Every method raises one of the errors of ``ledger_files``.
    """

    def __init__(self, path: str | Path, head: str | Path | None = None, clock: Callable[[], datetime] | None = None) -> None:
        self.files = LedgerFiles.at(path, head)
        self._clock = clock or (lambda: datetime.now(UTC))

    @classmethod
    def create(cls, path: str | Path, head: str | Path | None = None, simulated: bool = False) -> Ledger:
        """Make an empty ledger; LedgerError where one is or was. simulated: of a study, whose runs do not compose."""
        ledger = cls(path, head)
        files = ledger.files
        files.database.parent.mkdir(parents=True, exist_ok=True)
        with files.lock():
            files.begin_creation()
            key = files.make_key()
            os.close(os.open(files.database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            with ledger._connect() as db:
                db.executescript(_SCHEMA)
                db.execute("BEGIN IMMEDIATE")
                body = {"version": 1} | ({"note": SIMULATED} if simulated else {})
                row = ledger._append(db, key, None, ALL, "created", "", 0, body)
                db.execute("COMMIT")
            files.write_head(key, Head(row.seq, row.mac))
            files.end_creation()
        return ledger

    @property
    def simulated(self) -> bool:
        """Whether this is the ledger of a simulated site."""
        return self.rows()[0].body.get("note") == SIMULATED

    def rows(self) -> list[Row]:
        """Return all rows, oldest first, after checking the chain and the head."""
        self.files.require_database()
        with self.files.lock(shared=True), self._connect() as db:
            return self._checked(db, self.files.load_key())[0]

    def spent(self, dataset: str) -> Spent:
        """Return what ``dataset`` has spent over its life."""
        return spending(self.rows(), dataset)

    def begin_run(
        self,
        dataset: str,
        run: str,
        *,
        plan: Mapping[str, Any],
        commitment: str,
        history: History,
        scope: str,
        judge: Callable[[Spent], str],
    ) -> str:
        """Write the run's first row, with its plan, and return its terms; the same plan again changes nothing.

        judge sees what was spent, inside the transaction, and returns the terms or raises. A scope that does not account
        for every read writes an ``unaccounted`` row first. OutsidePlanError when the run committed to another plan.
        """
        if scope != "end-to-end":
            self.mark_unaccounted(dataset, run, f"scope {scope}")
        with self._transaction() as (rows, append):
            before = spending(rows, dataset)
            known = before.runs.get(run)
            if known and known.commitment != commitment:
                raise OutsidePlanError(
                    f"run '{run}' committed to plan {known.commitment[:12]}, not {commitment[:12]}: start a new run"
                )
            if known:
                return known.terms
            terms = judge(before)
            body = {"plan": dict(plan), "commitment": commitment, "scope": scope, "terms": terms, "releases": listed(history)}
            append(dataset, "run", run, 0, body)
        return terms

    def reserve(self, dataset: str, run: str, number: int, history: History, judge: Callable[[Spent], None]) -> int:
        """Reserve all releases of a round and return the row's number; on disk when this returns, never refunded.

        judge sees what was spent, inside the transaction, and raises to refuse. OutsidePlanError when the run has no plan, or
        its reservations with this one exceed it in any kind of release.
        """
        with self._transaction() as (rows, append):
            before = spending(rows, dataset)
            known = before.runs.get(run)
            if known is None:
                raise OutsidePlanError(f"run '{run}' has committed to no plan for data set '{dataset}'")
            for key, n in history.items():
                left = known.planned.get(key, 0) - known.reserved.get(key, 0)
                if n > left:
                    asked = f"{n} releases with sigma={key[0]:g}, q={key[1]:g}"
                    raise OutsidePlanError(f"run '{run}' round {number} asks for {asked}; its plan has {left} left")
            judge(before)
            return append(dataset, "reserve", run, number, {"releases": listed(history)}).seq

    def mark_unaccounted(self, dataset: str, run: str, reason: str) -> None:
        """Record that ``run`` reads the data outside the accounting; once a run is enough."""
        with self._transaction() as (rows, append):
            if not any(row.kind == "unaccounted" and (row.dataset, row.run) == (dataset, run) for row in rows):
                append(dataset, "unaccounted", run, 0, {"reason": reason})

    def add_records(self, dataset: str, units: Iterable[bytes]) -> Overlap:
        """Record the units (any bytes that identify each) of a data set as HMACs, so that a later swap or alias shows.

        SharedRecordsError when one stands under another name; SwappedDataError when none of those on record is left.
        """
        with self._transaction() as (_, append):
            key = self.files.load_key()
            now = {record_mac(key, unit) for unit in units}
            db = append.db
            mine = {mac for (mac,) in db.execute("SELECT mac FROM records WHERE dataset = ?", (dataset,))}
            others = db.execute("SELECT dataset, mac FROM records WHERE dataset != ?", (dataset,))
            aliases = sorted({name for name, mac in others if mac in now})
            if aliases:
                raise SharedRecordsError(
                    f"images of '{dataset}' were charged as '{aliases[0]}': use that name, or remove the images"
                )
            if mine and now and not mine & now:
                raise SwappedDataError(
                    f"no recorded image of '{dataset}' is in the data: give other data another name in the policy"
                )
            new = sorted(now - mine)
            if new:
                row = append(dataset, "records", "", 0, {"added": len(new), "sha256": hashlib.sha256(b"".join(new)).hexdigest()})
                db.executemany("INSERT INTO records VALUES (?, ?, ?)", [(dataset, mac, row.seq) for mac in new])
        return Overlap(len(mine & now), len(new), len(mine - now))

    def verify(self) -> int:
        """Check file, chain, head and records; return the number of rows. The error says what is wrong."""
        self.files.require_database()
        with self.files.lock(shared=True), self._connect() as db:
            rows, _ = self._checked(db, self.files.load_key())
            damage = db.execute("PRAGMA integrity_check").fetchone()[0]
            if damage != "ok":
                raise EditedRowError(f"{self.files.database}: damaged ({damage}); bring a backup back by `ledger restore`")
            for row in rows:
                if row.kind == "records":
                    macs = [mac for (mac,) in db.execute("SELECT mac FROM records WHERE seq = ? ORDER BY mac", (row.seq,))]
                    if hashlib.sha256(b"".join(macs)).hexdigest() != row.body["sha256"]:
                        raise EditedRowError(f"{self.files.database}: the records of row {row.seq} were changed")
            return len(rows)

    def book_gap(self, releases: History | None, backup: str | Path | None = None, note: str = "") -> Row:
        """Put an earlier copy in place (``backup``, or what is there) and book what may be lost since; the owner's decision.

        releases: what was released since, at most, charged to every data set; None: unknown, so epsilon is infinite from now
        on. The copy's own chain must be whole and under the same key.
        """
        files = self.files
        with files.lock():
            key = files.load_key()
            if backup is not None:
                self._put_back(Path(backup), key)
            with self._connect() as db:
                db.execute("BEGIN IMMEDIATE")
                rows = self._chain(db, key)
                lost = rows[-1].seq
                try:
                    lost = max(lost, files.read_head(key).rows)
                except LedgerError as error:
                    note = note or f"head unreadable: {type(error).__name__}"
                body = {"from": rows[-1].seq, "to": lost, "releases": None if releases is None else listed(releases), "note": note}
                row = self._append(db, key, rows[-1], ALL, "gap", "", 0, body, lost + 1)
                db.execute("COMMIT")
            files.write_head(key, Head(row.seq, row.mac))
        return row

    def _put_back(self, backup: Path, key: bytes) -> None:
        """Replace the database by a copy of ``backup``, once the copy's chain has been checked."""
        if not backup.is_file():
            raise LedgerError(f"{backup}: no such backup")
        database = self.files.database
        copy = Ledger(database.with_name(database.name + ".restored"))
        copy.files.database.unlink(missing_ok=True)
        os.close(os.open(copy.files.database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            with closing(sqlite3.connect(f"file:{backup}?mode=ro", uri=True)) as source, copy._connect() as db:
                source.backup(db)
                copy._chain(db, key)
            database.with_name(database.name + "-journal").unlink(missing_ok=True)
            copy.files.database.replace(database)
        finally:
            copy.files.database.unlink(missing_ok=True)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        self.files.require_database()
        db = sqlite3.connect(self.files.database, timeout=60, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous = EXTRA")  # a commit is on disk, its folder entry too
            yield db
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK:
                raise LedgerWriteError(f"{self.files.database}: {error}; nothing was reserved") from error
            raise EditedRowError(f"{self.files.database}: damaged ({error}); bring a backup back by `ledger restore`") from error
        finally:
            db.close()  # an open transaction is rolled back

    @contextmanager
    def _transaction(self) -> Iterator[tuple[list[Row], _Appender]]:
        """Check the ledger, let the caller append at most one row, commit it, then move the head."""
        files = self.files
        files.require_database()
        with files.lock():
            key = files.load_key()
            with self._connect() as db:
                db.execute("BEGIN IMMEDIATE")
                rows, head = self._checked(db, key)
                if head.rows != rows[-1].seq:  # a process died between its commit and its head
                    files.write_head(key, Head(rows[-1].seq, rows[-1].mac))
                appender = _Appender(self, db, key, rows[-1])
                yield rows, appender
                db.execute("COMMIT")
            if appender.row:
                files.write_head(key, Head(appender.row.seq, appender.row.mac))

    def _append(
        self,
        db: sqlite3.Connection,
        key: bytes,
        last: Row | None,
        dataset: str,
        kind: str,
        run: str,
        number: int,
        body: Mapping[str, Any],
        seq: int | None = None,
    ) -> Row:
        seq = seq or (last.seq + 1 if last else 1)
        text = json.dumps(body, sort_keys=True, allow_nan=False)
        time = self._clock().isoformat(timespec="seconds")
        mac = row_mac(key, last.mac if last else "", (seq, dataset, kind, run, number, text, time))
        db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (seq, dataset, kind, run, number, text, time, mac))
        db.execute("INSERT OR REPLACE INTO last VALUES (1, ?, ?)", (seq, mac))
        return Row(seq, dataset, kind, run, number, json.loads(text), time, mac.hex())

    def _checked(self, db: sqlite3.Connection, key: bytes) -> tuple[list[Row], Head]:
        """Return rows and head, after holding the one against the other."""
        path = self.files.database
        rows, head = self._chain(db, key), self.files.read_head(key)
        seq, mac = db.execute("SELECT seq, mac FROM last").fetchone() or (0, b"")
        if (seq, bytes(mac).hex() if isinstance(mac, bytes) else mac) != (rows[-1].seq, rows[-1].mac):
            raise CutTailError(f"{path}: ends at row {rows[-1].seq}, was written up to {seq}; run `ledger restore` to book the gap")
        if head.rows > seq:
            raise RolledBackError(
                f"{path}: has {seq} rows, its head says {head.rows}: an earlier copy; run `ledger restore` to book the gap"
            )
        behind = rows[-2] if len(rows) > 1 and head.rows == rows[-2].seq else rows[-1]
        if (head.rows, head.mac) != (behind.seq, behind.mac):
            raise WrongHeadError(
                f"{self.files.head}: at row {head.rows} of {seq}, not of this ledger's last two; run `ledger restore`"
            )
        return rows, head

    def _chain(self, db: sqlite3.Connection, key: bytes) -> list[Row]:
        rows: list[Row] = []
        for seq, dataset, kind, run, number, text, time, mac in db.execute("SELECT * FROM rows ORDER BY seq"):
            last = rows[-1] if rows else None
            expected = row_mac(key, last.mac if last else "", (seq, dataset, kind, run, number, text, time))
            if not isinstance(mac, bytes) or not hmac.compare_digest(mac, expected):
                broken = EditedRowError if seq == (last.seq + 1 if last else 1) else DeletedRowError
                raise broken(f"{self.files.database}: row {seq} does not follow from the one before; restore a backup")
            rows.append(Row(seq, dataset, kind, run, number, json.loads(text), time, mac.hex()))
        if not rows:
            raise CutTailError(f"{self.files.database}: holds no row; restore a backup")
        return rows


@dataclass
class _Appender:
    """Appends one row in a transaction; a second one is a mistake, since a crash may leave one unfinished row at most."""

    ledger: Ledger
    db: sqlite3.Connection
    key: bytes
    last: Row
    row: Row | None = None

    def __call__(self, dataset: str, kind: str, run: str, number: int, body: Mapping[str, Any]) -> Row:
        assert self.row is None
        self.row = self.ledger._append(self.db, self.key, self.last, dataset, kind, run, number, body)
        return self.row
