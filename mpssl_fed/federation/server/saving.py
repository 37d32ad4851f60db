"""When the server's checkpoints are written: after every round, or as often as their cost is small beside the work."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Protocol

from mpssl_fed.errors import UserError
from mpssl_fed.runs.checkpoint import Checkpoint
from mpssl_fed.runs.run_directory import RunDirectory

WORK_TO_COST = 50.0
"""Seconds of work after which a second of writing is due: what a kill can cost is 50 times a checkpoint."""


class Hold(Protocol):
    """What sites have not written yet."""

    @property
    def full(self) -> bool:
        """Whether a checkpoint is due, whatever it costs."""

    def flush(self) -> None:
        """Write it."""

    def interrupt(self) -> None:
        """Drop what is being trained."""


class Saving:
    """The checkpoints of one run. hold: None where each round has to be on disk before the next, as with a ledger or real sites."""

    def __init__(self, run: RunDirectory, hold: Hold | None) -> None:
        self._run, self._hold = run, hold
        self._due: Checkpoint | None = None
        self._ended, self._cost = time.monotonic(), 0.0

    def after(self, state: Checkpoint) -> None:
        """Write ``state`` now, or remember that it is not written."""
        self._due = state
        if self._hold is None or self._hold.full or time.monotonic() - self._ended >= WORK_TO_COST * self._cost:
            self.now()

    def now(self) -> None:
        """Write what is due, the sites' part first: a checkpoint never knows of a round that they do not."""
        if self._due is None:
            return
        started = time.monotonic()
        if self._hold is not None:
            self._hold.flush()
        self._run.save(self._due)
        self._due, self._ended = None, time.monotonic()
        self._cost = self._ended - started

    def last_words(self) -> None:
        """Write what is due, and what sites did beyond it, while an error passes: that it cannot be must not hide that error."""
        with suppress(OSError, UserError):
            if self._hold is not None:
                self._hold.interrupt()
                self._hold.flush()
            self.now()
