"""Which rounds a site has masked or opened: none is masked a second time, whatever is put back from a backup."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.files import write_atomic

ROUNDS, MOST_RUNS = "secure-rounds.json", 1000
"""A file with the last round that was masked or opened of each run, and how many runs it holds."""
TAIL = 1 << 20
"""Bytes that are read of what is appended: some 30,000 rounds."""


@dataclass(frozen=True)
class ClosedRounds:
    """In a file of the site's ``folder`` and, where the owner keeps the ledger's ``head`` elsewhere, in a second one beside that,
    HEAD.rounds, to which a line is appended: a folder that is put back opens no round anew.

    OSError where the head is not there, its disk may not be mounted: nothing is masked or opened then.
    """

    folder: Path
    head: Path | None = None

    def last(self, run: str) -> int:
        """Return the last round of ``run`` that is closed; 0 for none."""
        return max(self._here().get(run, 0), self._elsewhere(run))

    def close(self, run: str, number: int) -> None:
        """Close round ``number`` of ``run`` and all before it."""
        if number <= self.last(run):
            return
        rounds = self._here()
        rounds.pop(run, None)
        if self.head is not None:
            self._append(self.head, f"{run} {number}\n".encode())
        kept = dict([*rounds.items(), (run, number)][-MOST_RUNS:])
        write_atomic(self.folder / ROUNDS, json.dumps(kept), mode=0o600)

    def _here(self) -> dict[str, int]:
        file = self.folder / ROUNDS
        return dict(json.loads(file.read_text(encoding="ascii"))) if file.is_file() else {}

    def _elsewhere(self, run: str) -> int:
        if self.head is None:
            return 0
        os.stat(self.head)  # noqa: PTH116  raises where the disk is not there
        file = _beside(self.head)
        if not file.is_file():
            return 0
        with open(file, "rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - TAIL))
            lines = opened.read().split(b"\n")[:-1]  # what follows the last line's end was cut short
        numbers = [line.removeprefix(f"{run} ".encode()) for line in lines if line.startswith(f"{run} ".encode())]
        return max((int(one) for one in numbers if one.isdigit()), default=0)

    @staticmethod
    def _append(head: Path, line: bytes) -> None:
        handle = os.open(_beside(head), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            line = b"\n" + line  # ends what a process or the disk cut short
            while line:
                line = line[os.write(handle, line) :]
            os.fsync(handle)
        finally:
            os.close(handle)


def _beside(head: Path) -> Path:
    return head.with_name(head.name + ".rounds")
