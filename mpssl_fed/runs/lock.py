"""One writer a folder: a lock that the system itself drops when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpssl_fed import flock
from mpssl_fed.errors import UserError, option
from mpssl_fed.files import EXACT

LOCK = ".lock"
"""The file that is locked. It stays when the lock goes: removing it would let two processes lock two files of one name."""

MOMENTS, MOMENT_S = 5, 0.01

_mine: dict[tuple[int, int], int] = {}
"""Locked file (device, inode) of this process -> the thread that holds it."""


@contextmanager
def holding(folder: Path, moments: int = MOMENTS) -> Iterator[None]:
    """Hold ``folder``, which is made, against other processes and threads; a thread that holds it already goes on holding it.

    moments: hundredths of a second after which it is tried no more. UserError when another run or study is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = _open(folder, os.O_CREAT | os.O_RDWR)
    place = _place(handle)
    try:
        if _mine.get(place) == threading.get_ident():
            yield
            return
        if place in _mine or not _try_for_a_moment(handle, moments):
            raise UserError(_taken(folder, handle))
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())  # for the message alone
        _mine[place] = threading.get_ident()
        try:
            yield
        finally:
            del _mine[place]
    finally:
        os.close(handle)


def refuse_held(folder: Path) -> None:
    """Raise UserError when another process or thread is writing in ``folder``; writes nothing."""
    if not (folder / LOCK).is_file():
        return
    handle = _open(folder, os.O_RDONLY)
    try:
        holder = _mine.get(_place(handle))
        if holder == threading.get_ident():
            return
        if holder is not None or not _try(handle, shared=True):
            raise UserError(_taken(folder, handle))
    finally:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether another process or thread is writing in ``folder``, or its lock is none; writes nothing."""
    try:
        refuse_held(folder)
    except UserError:
        return True
    return False


def _open(folder: Path, flags: int) -> int:
    try:
        return os.open(folder / LOCK, flags | EXACT, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{folder / LOCK}: is a link, want the lock file of a run or study; remove it") from error
        raise


def _place(handle: int) -> tuple[int, int]:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino


def _try_for_a_moment(handle: int, moments: int) -> bool:
    """Return whether the lock was taken, past readers that only looked whether it is free: a live page does once a second."""
    for _ in range(moments):
        if _try(handle):
            return True
        time.sleep(MOMENT_S)
    return _try(handle)


def _try(handle: int, shared: bool = False) -> bool:
    """Return whether the lock was taken, or cannot be taken by anyone here: there nobody can be kept out."""
    try:
        return flock.take(handle, shared=shared)
    except OSError as error:
        if error.errno not in flock.NOT_HERE:
            raise
        return True


def _taken(folder: Path, handle: int) -> str:
    try:
        who = os.read(handle, 20).decode("ascii", "replace")
    except OSError:  # Windows lets nobody read what another has locked
        who = ""
    process = f" (process {who})" if who.isdigit() else ""
    cure = f"wait for it to end, or choose another by {option('output', 'DIR')}"
    return f"{folder}: another run or study is writing there{process}; {cure}"
