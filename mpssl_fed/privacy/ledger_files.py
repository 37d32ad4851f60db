"""What stands beside a ledger's SQLite file: its key, its head and its lock; and the named errors of a ledger."""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.errors import UserError
from mpssl_fed.files import write_atomic


class LedgerError(UserError):
    """The ledger cannot be used as it is; nothing may be released. The text names the file and the cure."""


class MissingLedgerError(LedgerError):
    """The ledger, its key or its head is not where it was."""


class ExposedKeyError(LedgerError):
    """Another user can read the key."""


class EditedRowError(LedgerError):
    """A row, or the file around it, is not as it was written."""


class DeletedRowError(LedgerError):
    """A row in the middle is gone."""


class CutTailError(LedgerError):
    """The last rows were deleted from the file."""


class RolledBackError(LedgerError):
    """The file is whole but older than its head: an earlier copy was put back."""


class WrongHeadError(LedgerError):
    """The head file is damaged, or older than one unfinished reservation."""


class LedgerWriteError(LedgerError):
    """The disk is full or failing; nothing was reserved."""


class OutsidePlanError(LedgerError):
    """A run asks for more than it committed to in its first row."""


class SharedRecordsError(LedgerError):
    """Images of one data set were already charged under another name."""


class SwappedDataError(LedgerError):
    """None of a data set's recorded images is in the data any more."""


@dataclass(frozen=True)
class Head:
    """How many rows the ledger has, by the last one's number, and the last one's MAC in hex."""

    rows: int
    mac: str


@dataclass(frozen=True)
class LedgerFiles:
    """The paths of a ledger. The head may live in another folder, so that restoring one folder does not restore both."""

    database: Path
    head: Path

    @classmethod
    def at(cls, path: str | Path, head: str | Path | None = None) -> LedgerFiles:
        """Return the files of the ledger at ``path``; the head is ``PATH.head`` unless given."""
        database = Path(path)
        return cls(database, Path(head) if head else database.with_name(database.name + ".head"))

    @property
    def key(self) -> Path:
        """32 secret bytes, mode 0600."""
        return self.database.with_name(self.database.name + ".key")

    @property
    def lock_file(self) -> Path:
        """Held while rows and head are written, so that no process sees one without the other."""
        return self.database.with_name(self.database.name + ".lock")

    @property
    def unfinished(self) -> Path:
        """Stands there while a ledger is made; as long as it does, nothing can be read from it or charged to it."""
        return self.database.with_name(self.database.name + ".unfinished")

    @property
    def absent(self) -> bool:
        """Whether no ledger is or was here: at most what a process left that was killed while it made one."""
        return self.unfinished.exists() or not (self.database.exists() or self.head.exists())

    def begin_creation(self) -> None:
        """Remove the parts of a creation that was killed and mark a new one; LedgerError where a ledger is or was."""
        if self.unfinished.exists():
            journal = self.database.with_name(self.database.name + "-journal")
            for part in (self.database, journal, self.key, self.head):
                part.unlink(missing_ok=True)
        for old in (self.database, self.head):
            if old.exists():
                raise LedgerError(f"{old}: exists already; a ledger was here. Move its files away to start anew")
        os.close(os.open(self.unfinished, os.O_CREAT | os.O_WRONLY, 0o600))
        self._sync_folder()

    def end_creation(self) -> None:
        """Take the mark away: from now on the ledger counts."""
        self.unfinished.unlink()
        self._sync_folder()

    def _sync_folder(self) -> None:
        handle = os.open(self.database.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def make_key(self) -> bytes:
        """Write and return a fresh key; LedgerError where one exists."""
        key = secrets.token_bytes(32)
        try:
            handle = os.open(self.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise LedgerError(f"{self.key}: exists already; a ledger was here. Move its files away to start anew") from error
        with os.fdopen(handle, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        return key

    def require_database(self) -> None:
        """Raise MissingLedgerError where the SQLite file is not; SQLite itself would make an empty one."""
        if not self.database.is_file():
            raise MissingLedgerError(f"{self.database}: no such ledger; create one, or bring a lost one back by `ledger restore`")

    def load_key(self) -> bytes:
        """Return the key. MissingLedgerError without it, ExposedKeyError when its mode lets others read it."""
        if self.unfinished.exists():
            raise MissingLedgerError(f"{self.database}: its making was cut short and it holds nothing; create it again")
        try:
            mode, key = self.key.stat().st_mode, self.key.read_bytes()
        except FileNotFoundError as error:
            raise MissingLedgerError(f"{self.key}: the ledger's key is gone and no row can be checked; put it back") from error
        except PermissionError as error:
            raise LedgerError(f"{self.key}: cannot be read by this user; run as the ledger's owner") from error
        if mode & 0o077:
            raise ExposedKeyError(f"{self.key}: mode {mode & 0o777:04o} lets other users in; chmod 600 it")
        if len(key) != 32:
            raise EditedRowError(f"{self.key}: holds {len(key)} bytes, want 32; put the ledger's own key back")
        return key

    def read_head(self, key: bytes) -> Head:
        """Return the head. MissingLedgerError without it, WrongHeadError where it is damaged."""
        try:
            fields = json.loads(self.head.read_bytes())
            head, mac = Head(int(fields["rows"]), str(fields["head"])), str(fields["mac"])
        except FileNotFoundError as error:
            raise MissingLedgerError(
                f"{self.head}: the ledger's head is gone; run `ledger restore` to book what may be lost"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise WrongHeadError(f"{self.head}: damaged; run `ledger restore` to book what may be lost") from error
        if not hmac.compare_digest(mac, _head_mac(key, head)):
            raise WrongHeadError(f"{self.head}: was not written with this ledger's key; run `ledger restore`")
        return head

    def write_head(self, key: bytes, head: Head) -> None:
        """Write the head, whole or not at all. LedgerWriteError on a full or failing disk."""
        fields = {"rows": head.rows, "head": head.mac, "mac": _head_mac(key, head)}
        try:
            write_atomic(self.head, json.dumps(fields) + "\n", mode=0o600)
        except OSError as error:
            raise LedgerWriteError(f"{self.head}: cannot be written ({error.strerror}); free some space and try again") from error

    @contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        """Hold the lock, waiting for it; the system lets go of it when a process dies."""
        try:
            handle = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LedgerWriteError(f"{self.lock_file}: cannot be opened ({error.strerror})") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _head_mac(key: bytes, head: Head) -> str:
    return hmac.digest(key, f"head {head.rows} {head.mac}".encode(), "sha256").hex()
