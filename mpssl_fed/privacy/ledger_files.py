"""What stands beside a ledger's SQLite file: its key, its head and its lock; and how the three come to be."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed import flock
from mpssl_fed.files import EXACT, plain_file, sync_folder
from mpssl_fed.privacy.ledger_errors import (
    CutTailError,
    DeletedRowError,
    EditedRowError,
    ExposedKeyError,
    LedgerError,
    LedgerWriteError,
    MissingLedgerError,
    OutsidePlanError,
    RolledBackError,
    SharedRecordsError,
    SwappedDataError,
    WrongHeadError,
)
from mpssl_fed.privacy.ledger_head import Head, HeadFile

__all__ = [
    "CutTailError", "DeletedRowError", "EditedRowError", "ExposedKeyError", "Head", "LedgerError", "LedgerFiles",
    "LedgerWriteError", "MissingLedgerError", "OutsidePlanError", "RolledBackError", "SharedRecordsError", "SwappedDataError",
    "WrongHeadError",
]  # fmt: skip

SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class LedgerFiles:
    """The paths of a ledger. The head may live in another folder, so that restoring one folder does not restore both."""

    database: Path
    head: Path

    @classmethod
    def at(cls, path: str | Path, head: str | Path | None = None) -> LedgerFiles:
        """Return the files of the ledger at ``path``; the head is ``PATH.head`` unless given. LedgerError for '.', '/' and ''."""
        database = Path(path)
        if not database.name:
            raise LedgerError(f"'{database}' is a folder; name the ledger.sqlite of a site")
        return cls(database, Path(head) if head else _beside(database))

    @property
    def head_file(self) -> HeadFile:
        """The head; elsewhere than beside the database it is appended to."""
        return HeadFile(self.head, appended=not self.head_beside)

    @property
    def head_beside(self) -> bool:
        """Whether the head lives beside the database, where one backup put back takes both."""
        return self.head.absolute() == _beside(self.database).absolute()

    @property
    def key(self) -> Path:
        """32 secret bytes, mode 0600."""
        return self._part(".key")

    @property
    def lock_file(self) -> Path:
        """Held while rows and head are written, so that no process sees one without the other."""
        return self._part(".lock")

    @property
    def fresh(self) -> Path:
        """A database in the making; nothing reads it, and it takes its name when all else stands."""
        return self._part(".new")

    @property
    def unfinished(self) -> Path:
        """What version 0.1 put there while it made a ledger; beside one that holds more than its first row it means nothing."""
        return self._part(".unfinished")

    @property
    def absent(self) -> bool:
        """Whether no ledger is or was here: at most what a process left that was killed while it made one."""
        try:
            self.refuse_occupied()
        except LedgerError:
            return False
        return True

    def refuse_occupied(self) -> None:
        """LedgerError where a ledger is or was: a database, a head that speaks of more than its first row, or a lone key."""
        anew = "a ledger was here. Move its files away to start anew"
        try:
            begun, database, key = self._begun(), self.database.exists(), self.key.exists()
        except OSError as error:
            raise LedgerError(f"{self.database}: cannot be looked for ({error.strerror}); run as the ledger's owner") from error
        if database and not begun:
            raise LedgerError(f"{self.database}: exists already; {anew}")
        claims = self.head_file.claims()
        if claims is not None and claims > 1:
            raise LedgerError(f"{self.head}: exists already, at row {claims}; {anew}")
        if key and claims is None and not begun:
            raise LedgerError(f"{self.key}: exists already; {anew}")

    def clear(self) -> None:
        """Remove what a killed process left of a ledger it was making; to be called after :meth:`refuse_occupied`."""
        for part in (self.database, self.fresh):
            part.unlink(missing_ok=True)
            part.with_name(part.name + "-journal").unlink(missing_ok=True)
        self.key.unlink(missing_ok=True)
        self.unfinished.unlink(missing_ok=True)

    def finish(self, key: bytes, head: Head) -> None:
        """Put down the head, the key and, last, the database: as long as it is missing nothing was ever charged here."""
        self.head_file.write(key, head, create=True)
        handle = os.open(self.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL | EXACT, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.database.parent)
        self.fresh.rename(self.database)
        sync_folder(self.database.parent)

    @staticmethod
    def new_key() -> bytes:
        """Return a fresh key."""
        return secrets.token_bytes(32)

    def require_database(self) -> None:
        """Raise MissingLedgerError where the SQLite file is not; SQLite itself would make an empty one."""
        try:
            found = self.database.is_file()
        except OSError as error:
            raise LedgerError(f"{self.database}: cannot be looked for ({error.strerror}); run as the ledger's owner") from error
        if not found:
            raise MissingLedgerError(f"{self.database}: no such ledger; create one, or bring a lost one back by `ledger restore`")

    def load_key(self) -> bytes:
        """Return the key. MissingLedgerError without it, ExposedKeyError when its mode lets others read it."""
        try:
            if self._begun():
                raise MissingLedgerError(f"{self.database}: its making was cut short and it holds nothing; create it again")
            mode, key = self.key.stat().st_mode, plain_file(self.key).read_bytes()
        except FileNotFoundError as error:
            if not self.head.exists() and not self._is_sqlite():
                raise MissingLedgerError(f"{self.database}: is no ledger; name the ledger.sqlite of a site") from error
            raise MissingLedgerError(f"{self.key}: the ledger's key is gone and no row can be checked; put it back") from error
        except OSError as error:
            raise LedgerError(f"{self.key}: cannot be read ({error.strerror}); run as the ledger's owner") from error
        if mode & 0o077 and hasattr(os, "geteuid"):  # Windows keeps its rights elsewhere
            raise ExposedKeyError(f"{self.key}: mode {mode & 0o777:04o} lets other users in; chmod 600 it")
        if len(key) != 32:
            raise EditedRowError(f"{self.key}: holds {len(key)} bytes, want 32; put the ledger's own key back")
        return key

    @contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        """Hold the lock, waiting for it; the system lets go of it when a process dies.

        shared: for a reader, who makes no file: where there is no lock, as in a copy on another disk, nobody writes either.
        """
        handle = self._open_lock(shared)
        try:
            if handle is not None:
                flock.take(handle, shared=shared, wait=True)
            yield
        finally:
            if handle is not None:
                os.close(handle)

    def _open_lock(self, shared: bool) -> int | None:
        try:
            return os.open(self.lock_file, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if shared and isinstance(error, FileNotFoundError):
                return None
            raise LedgerWriteError(f"{self.lock_file}: cannot be opened ({error.strerror})") from error

    def fingerprint(self) -> tuple[int, ...]:
        """Return what changes when anybody replaces the database or writes to it."""
        stat = self.database.stat()
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def _begun(self) -> bool:
        """Whether version 0.1 was killed while it made a ledger here: its mark stands, and no row after the first."""
        if not self.unfinished.exists():
            return False
        with suppress(LedgerError):
            if (self.head_file.claims() or 0) > 1:
                return False
        if not self.database.exists():
            return True
        with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(self.database, timeout=60)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return "rows" not in tables or (db.execute("SELECT max(seq) FROM rows").fetchone()[0] or 0) <= 1
        return False  # what cannot be read may be a whole ledger that was damaged

    def _is_sqlite(self) -> bool:
        with suppress(OSError), open(self.database, "rb") as file:
            return file.read(len(SQLITE)) == SQLITE
        return True

    def _part(self, suffix: str) -> Path:
        return self.database.with_name(self.database.name + suffix)


def _beside(database: Path) -> Path:
    return database.with_name(database.name + ".head")
