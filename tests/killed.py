"""A process that is killed at its n-th change of the disk, played in this one: from that moment on nothing is written any more.

Not even by what cleans up behind an error, which a killed process never reaches. Python tells an audit hook of every change before
it is made, and takes it back when the hook raises. SQLite writes past it: ledgers have kills of their own (``privacy/ledger``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod", "shutil.rmtree")


class Killed(BaseException):
    """The process is dead."""


class _Armed:
    below: str | None = None
    left = 0


def _hook(event: str, args: tuple[object, ...]) -> None:
    if _Armed.below is None or not _is_change(event, args, _Armed.below):
        return
    _Armed.left -= 1
    if _Armed.left < 0:
        raise Killed


def _is_change(event: str, args: tuple[object, ...], below: str) -> bool:
    opened = event == "open" and isinstance(args[2], int) and bool(args[2] & WRITING)
    if not opened and event not in CHANGES:
        return False
    return isinstance(args[0], str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(args[0])).startswith(below)  # noqa: PTH100


sys.addaudithook(_hook)


@contextmanager
def killed_at(n: int, below: Path) -> Iterator[None]:
    """Run the block until just before its n-th change (from 0) of the disk below a folder; Killed never gets out."""
    _Armed.below, _Armed.left = str(below), n
    try:
        with suppress(Killed):
            yield
    finally:
        _Armed.below = None


def every_kill(below: Path, prepare: Callable[[], object], work: Callable[[], object]) -> Iterator[int]:
    """Yield after ``work`` was killed at its first change of the disk, at its second, ... until it ends by itself."""
    n, ended = 0, False
    while not ended:
        prepare()
        with killed_at(n, below):
            work()
            ended = _Armed.left >= 0
        if not ended:
            yield n
        n += 1
