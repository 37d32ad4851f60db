"""A ledger's SQLite file: opened, checked, appended to by one row at a time, copied back; what the rows mean is not known here."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpssl_fed.privacy.ledger_books import HEAD, Books, check_end, check_goes_on, read_books
from mpssl_fed.privacy.ledger_files import EditedRowError, Head, LedgerError, LedgerFiles, LedgerWriteError, MissingLedgerError
from mpssl_fed.privacy.ledger_rows import ALL, Row, row_mac

_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY)
"""SQLite's codes for a disk or a lock that does not let it write; any other error means a damaged file."""

_ROLL_BACK = sqlite3.SQLITE_READONLY | 3 << 8
"""SQLITE_READONLY_ROLLBACK: a process was killed in a commit, which a reader would have to undo."""

_SCHEMA = """
CREATE TABLE rows (seq INTEGER PRIMARY KEY, dataset TEXT NOT NULL, kind TEXT NOT NULL, run TEXT NOT NULL,
    round INTEGER NOT NULL, body TEXT NOT NULL, time TEXT NOT NULL, mac BLOB NOT NULL);
CREATE TABLE records (dataset TEXT NOT NULL, mac BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (dataset, mac)) WITHOUT ROWID;
CREATE TABLE last (id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, mac BLOB NOT NULL);
CREATE TRIGGER no_update BEFORE UPDATE ON rows BEGIN SELECT RAISE(ABORT, 'rows are append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON rows BEGIN SELECT RAISE(ABORT, 'rows are append-only'); END;
"""


@dataclass(frozen=True)
class _Known:
    """Books as they were when the database had this fingerprint; checked with this key."""

    fingerprint: tuple[int, ...]
    key: bytes
    books: Books


@dataclass
class Transaction:
    """What a writer sees, and one row that it may append: a crash may leave one unfinished row at most."""

    books: Books
    key: bytes
    _write: Callable[..., Row]
    row: Row | None = None
    macs: frozenset[bytes] = frozenset()

    def append(
        self, dataset: str, kind: str, run: str, number: int, body: Mapping[str, Any], macs: frozenset[bytes] = frozenset()
    ) -> Row:
        """Append a row, and the HMACs that it records."""
        assert self.row is None
        self.row, self.macs = self._write(dataset, kind, run, number, body, macs), macs
        return self.row


class Store:
    """The files of a ledger. Holds no connection: each call opens, checks, writes at most one row and closes.

    The whole chain is checked when an object is first used and whenever the file is not as this object left it; else only its
    end, so that a call costs the same after a thousand runs. What it has seen has to stay there. Threads and processes may share
    a ledger; locks order them.
    """

    def __init__(self, path: str | Path, head: str | Path | None, clock: Callable[[], datetime] | None) -> None:
        self.files = LedgerFiles.at(path, head)
        self.head_given = head is not None
        self._clock = clock or (lambda: datetime.now(UTC))
        self._turn = threading.RLock()
        self._known: _Known | None = None
        self._seen: Head | None = None

    @property
    def whereabouts(self) -> str | None:
        """What a row says of where the head lives: a path, or None for beside the database."""
        return None if self.files.head_beside else str(self.files.head.absolute())

    def create(self, body: Mapping[str, Any]) -> None:
        """Make the files, with a first row of this body; LedgerError where a ledger is or was."""
        files = self.files
        files.database.parent.mkdir(parents=True, exist_ok=True)
        files.head.parent.mkdir(parents=True, exist_ok=True)
        with files.lock():
            files.refuse_occupied()
            files.clear()
            key = files.new_key()
            os.close(os.open(files.fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            with self._connect(files.fresh) as db:
                db.executescript(_SCHEMA)
                db.execute("BEGIN IMMEDIATE")
                place = {} if self.whereabouts is None else {HEAD: self.whereabouts}
                row = self._append(db, key, Books(), (ALL, "created", "", 0, dict(body) | place))
                db.execute("COMMIT")
            files.finish(key, Head(row.seq, row.mac))

    @contextmanager
    def reading(self, whole: bool = False) -> Iterator[tuple[sqlite3.Connection, Books]]:
        """Check the ledger and yield its books; nothing is written, not even a lock. whole: check all, and keep each row."""
        files = self.files
        files.require_database()
        with self._turn, files.lock(shared=True):
            key = files.load_key()
            with self._connect_to_read() as db:
                yield db, self._checked(db, key, whole)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Check the ledger, let the caller append at most one row, commit it, then move the head."""
        files = self.files
        files.require_database()
        files.load_key()  # where there is none, no lock is left beside what is no ledger
        with self._turn, files.lock():
            key = files.load_key()
            with self._connect(files.database) as db:
                db.execute("BEGIN IMMEDIATE")
                books = self._checked(db, key)
                head = self.files.head_file
                if head.read(key) != books.end:  # a process died between its commit and its head
                    head.write(key, books.end)
                with suppress(FileNotFoundError):
                    files.unfinished.unlink()  # means nothing beside a ledger that holds

                def write(dataset: str, kind: str, run: str, number: int, body: Mapping[str, Any], macs: frozenset[bytes]) -> Row:
                    row = self._append(db, key, books, (dataset, kind, run, number, body))
                    db.executemany("INSERT INTO records VALUES (?, ?, ?)", [(dataset, mac, row.seq) for mac in sorted(macs)])
                    return row

                change = Transaction(books, key, write)
                yield change
                known, self._known = self._known, None  # not to be trusted should the commit fail
                db.execute("COMMIT")
            if change.row is None:
                self._known = known
                return
            books.add(change.row, change.macs)
            self._known, self._seen = _Known(files.fingerprint(), key, books), books.end
            self._follow(books)
            self.files.head_file.write(key, books.end)

    def put_back(self, backup: Path | None, body: Callable[[Books, int | None], Mapping[str, Any]]) -> Row:
        """Put a copy in place of the database (None: keep what is there) and append a gap row; then write the head.

        body: from the books of the copy and how far the head says that the ledger went, None where no head can be read.
        """
        files = self.files
        files.load_key()
        with self._turn, files.lock():
            self._known = self._seen = None
            key = files.load_key()
            if backup is not None:
                self._copy(backup, key)
            with self._connect(files.database) as db:
                db.execute("BEGIN IMMEDIATE")
                books = read_books(db, key, files.database)
                self._follow(books)
                head, rows = self.files.head_file, None
                if head.appended and not head.path.parent.is_dir():
                    raise LedgerError(
                        f"{head.path}: no folder {head.path.parent}; mount the head's disk, or name another by --head"
                    )
                with suppress(LedgerError):
                    rows = head.read(key).rows
                place = {HEAD: self.whereabouts} if self.whereabouts != books.head else {}
                last = max(books.seq, rows or 0)
                row = self._append(db, key, books, (ALL, "gap", "", 0, dict(body(books, rows)) | place), last + 1)
                db.execute("COMMIT")
            head.write(key, Head(row.seq, row.mac), create=True)
        return row

    def move_head(self, to: Path) -> Row:
        """Let the head live at ``to`` from now on; LedgerError where another one lies. One beside the database is removed."""
        new, given = LedgerFiles.at(self.files.database, to), self.head_given
        try:
            with self.transaction() as change:
                old, books = self.files, change.books
                if new.head.absolute() == old.head.absolute():
                    raise LedgerError(f"{to}: this ledger's head lies there already")
                if new.head_file.claims() is not None and new.head_file.read(change.key) not in books.ends:
                    raise LedgerError(f"{to}: a head that is not of this ledger's last rows; name a file that is not there yet")
                new.head_file.write(change.key, books.end, create=True)
                row = change.append(ALL, "head", "", 0, {HEAD: None if new.head_beside else str(new.head.absolute())})
                self.head_given = False  # from here on the ledger's own word counts
        except BaseException:
            self.head_given = given
            raise
        if old.head_beside:
            old.head.unlink()
        return row

    def _checked(self, db: sqlite3.Connection, key: bytes, whole: bool = False) -> Books:
        """Return the books, held against the end of the database and the head."""
        path, known = self.files.database, self._known
        fingerprint = self.files.fingerprint()
        if known is not None and not whole and (known.fingerprint, known.key) == (fingerprint, key):
            books = known.books
        else:
            books = read_books(db, key, path, keep_rows=whole)
        self._follow(books)
        check_end(db, books, self._read_head(key, books), path, self.files.head)
        if self._seen is not None:
            check_goes_on(db, books, self._seen, path)
        if not whole:
            self._known = _Known(fingerprint, key, books)
        self._seen = books.end
        return books

    def _follow(self, books: Books) -> None:
        """Look for the head where the ledger says it is, unless the caller named a place."""
        if not self.head_given:
            self.files = LedgerFiles.at(self.files.database, books.head)

    def _read_head(self, key: bytes, books: Books) -> Head:
        try:
            return self.files.head_file.read(key)
        except MissingLedgerError as error:
            if not self.head_given or self.whereabouts == books.head:
                raise
            raise MissingLedgerError(
                f"{self.files.head}: no head is there; this ledger's is {books.head or 'beside it'}. Name that, or move it by "
                "`ledger move-head`"
            ) from error

    def _append(
        self, db: sqlite3.Connection, key: bytes, books: Books, fields: tuple[str, str, str, int, Mapping[str, Any]], seq: int = 0
    ) -> Row:
        """Append a row; fields: dataset, kind, run, round, body; seq: by default the next."""
        seq = seq or (books.seq + 1 if books.last else 1)
        text = json.dumps(fields[-1], sort_keys=True, allow_nan=False)
        time = self._clock().isoformat(timespec="seconds")
        mac = row_mac(key, books.mac if books.last else "", (seq, *fields[:-1], text, time))
        db.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (seq, *fields[:-1], text, time, mac))
        db.execute("INSERT OR REPLACE INTO last VALUES (1, ?, ?)", (seq, mac))
        return Row(seq, *fields[:-1], json.loads(text), time, mac.hex())

    def _copy(self, backup: Path, key: bytes) -> None:
        """Replace the database by a copy of ``backup``, once the copy's chain has been checked."""
        if not backup.is_file():
            raise LedgerError(f"{backup}: no such backup")
        database = self.files.database
        copy = database.with_name(database.name + ".restored")
        copy.unlink(missing_ok=True)
        os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            with closing(sqlite3.connect(_read_only(backup), uri=True)) as source, self._connect(copy) as db:
                source.backup(db)
                read_books(db, key, backup)
            database.with_name(database.name + "-journal").unlink(missing_ok=True)
            copy.replace(database)
        finally:
            copy.unlink(missing_ok=True)

    @contextmanager
    def _connect(self, path: Path) -> Iterator[sqlite3.Connection]:
        with self._errors(), closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = EXTRA")  # a commit is on disk, its folder entry too
            yield db  # a transaction left open is rolled back by the close

    @contextmanager
    def _connect_to_read(self) -> Iterator[sqlite3.Connection]:
        path = self.files.database
        with self._errors(), closing(sqlite3.connect(_read_only(path), timeout=60, isolation_level=None, uri=True)) as db:
            try:
                db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != _ROLL_BACK:
                    raise
            else:
                yield db
                return
        with self._connect(path) as db:  # a writer was killed in its commit, and its file has to be mended first
            yield db

    @contextmanager
    def _errors(self) -> Iterator[None]:
        path = self.files.database
        try:
            yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK:
                raise LedgerWriteError(f"{path}: {error}; nothing was reserved") from error
            raise EditedRowError(f"{path}: damaged ({error}); bring a backup back by `ledger restore`") from error


def _read_only(path: Path) -> str:
    return path.absolute().as_uri() + "?mode=ro"
