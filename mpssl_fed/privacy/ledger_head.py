"""The head of a ledger: number and MAC of its last row in a file of its own, which may live where a restored folder does not reach.

Beside the database it is one line, replaced. Elsewhere each head is a line that is appended, so that the file may lie on
append-only media; the last whole line counts. A file in an unmounted folder is never made anew by itself.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.files import parse_json, plain_file, sync_folder, write_atomic
from mpssl_fed.privacy.ledger_errors import LedgerError, LedgerWriteError, MissingLedgerError, WrongHeadError

TAIL = 1 << 16
"""Bytes of an appended head that are read: some hundred lines, each below 300 bytes."""


@dataclass(frozen=True)
class Head:
    """How many rows the ledger has, by the last one's number, and the last one's MAC in hex."""

    rows: int
    mac: str


@dataclass(frozen=True)
class HeadFile:
    """Where the head is, and whether it is appended to rather than replaced."""

    path: Path
    appended: bool

    def read(self, key: bytes) -> Head:
        """Return the head. MissingLedgerError without it, WrongHeadError where it is damaged or of another ledger."""
        try:
            found = next(self._heads(), None)
        except FileNotFoundError as error:
            raise MissingLedgerError(f"{self.path}: the ledger's head is gone; {self._cure}") from error
        if found is None:
            raise WrongHeadError(f"{self.path}: damaged; {self._cure}")
        head, mac = found
        if not hmac.compare_digest(mac, _head_mac(key, head)):
            raise WrongHeadError(f"{self.path}: was not written with this ledger's key; {self._cure}")
        return head

    def claims(self) -> int | None:
        """Return how many rows it speaks of, unchecked; None without a file, WrongHeadError where it is damaged.

        None, too, where not one line of an appended head is whole: a process was killed as it wrote the first.
        """
        try:
            found = next(self._heads(), None)
            if found is None and self.appended and b"\n" not in self._tail():
                return None
        except FileNotFoundError:
            return None
        if found is None:
            raise WrongHeadError(f"{self.path}: damaged; {self._cure}")
        return found[0].rows

    def write(self, key: bytes, head: Head, create: bool = False) -> None:
        """Write the head, whole or not at all. LedgerWriteError on a full or failing disk, or one that is not there.

        create: also where an appended head has no file yet; a folder is made only for a head that is replaced.
        """
        line = json.dumps({"rows": head.rows, "head": head.mac, "mac": _head_mac(key, head)}) + "\n"
        try:
            if self.appended:
                self._append(line.encode(), create)
            else:
                write_atomic(self.path, line, mode=0o600)
        except OSError as error:
            raise LedgerWriteError(
                f"{self.path}: the head cannot be written ({error.strerror}); make room or mount its disk, and try again"
            ) from error

    def _append(self, line: bytes, create: bool) -> None:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | (os.O_CREAT if create else 0), 0o600)
        try:
            if not self._ends_a_line():  # a process or the disk ended in the middle of one
                line = b"\n" + line
            while line:
                line = line[os.write(handle, line) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        if create:
            sync_folder(self.path.parent)

    def _ends_a_line(self) -> bool:
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            return file.read(1) in (b"", b"\n")

    def _heads(self) -> Iterator[tuple[Head, str]]:
        """Yield head and MAC of the whole lines, the last first."""
        lines = self._tail().split(b"\n")
        for line in reversed(lines[:-1] if self.appended else lines):  # what follows the last line's end was cut short
            try:
                fields = parse_json(line)
                yield Head(int(fields["rows"]), str(fields["head"])), str(fields["mac"])
            except (ValueError, KeyError, TypeError):
                continue

    def _tail(self) -> bytes:
        try:
            with open(plain_file(self.path), "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                return file.read()
        except PermissionError as error:
            raise LedgerError(f"{self.path}: cannot be read by this user; run as the ledger's owner") from error
        except (IsADirectoryError, NotADirectoryError) as error:
            raise LedgerError(f"{self.path}: is no head of a ledger; name its file") from error

    @property
    def _cure(self) -> str:
        return "mount its disk or, where it is lost, " * self.appended + "run `ledger restore` to book what may be lost"


def _head_mac(key: bytes, head: Head) -> str:
    return hmac.digest(key, f"head {head.rows} {head.mac}".encode(), "sha256").hex()
