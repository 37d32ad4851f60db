"""The one thread in which a daemon trains, with a time limit that the site's owner sets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.method.allocator import give_back_memory

T = TypeVar("T")
MOST_WAITING = 4
LIMIT_S, GRACE_S, LOOK_S = 4 * 3600.0, 60.0, 0.5


class Overdue(Exception):  # noqa: N818  it ends a round, nothing is broken
    """The work at hand has taken longer than its limit."""


class Worker:
    """Does one piece of work at a time in one thread: the same thread settings, the same bits.

    Work that has taken ``limit_s`` is told so by :meth:`proceed`, where it asks. Where it has not ended ``grace_s`` later the
    thread is ``hung``: nothing in the process can end it, and nothing more is taken.
    """

    def __init__(self, limit_s: float = LIMIT_S, grace_s: float = GRACE_S) -> None:
        self.limit_s, self.grace_s, self.hung, self.waiting = limit_s, grace_s, False, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="train")
        self._lock, self._overdue = threading.Lock(), threading.Event()
        self._since: float | None = None  # when the work at hand began

    def do(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, or raise what it raises; Refusal ``busy`` or ``time-limit``."""
        with self._lock:
            if self.hung or self.waiting >= MOST_WAITING:
                raise Refusal("busy")
            self.waiting += 1
        try:
            future, begun = self._submit(work)
            return self._await(future, begun)
        finally:
            with self._lock:
                self.waiting -= 1

    def later(self, work: Callable[[], None]) -> None:
        """Do ``work`` when the thread is free; nobody waits for it."""
        self._submit(work)

    def proceed(self) -> None:
        """Raise Overdue where the work at hand has used up its time."""
        if self._overdue.is_set():
            raise Overdue

    def _submit(self, work: Callable[[], T]) -> tuple[Future[T], threading.Event]:
        begun = threading.Event()

        def run() -> T:
            self._overdue.clear()
            self._since = time.monotonic()
            begun.set()
            try:
                return work()
            finally:
                self._since = None
                give_back_memory()

        return self._thread.submit(run), begun

    def _await(self, future: Future[T], begun: threading.Event) -> T:
        while True:
            try:
                return future.result(LOOK_S)
            except Overdue:
                raise Refusal("time-limit") from None
            except TimeoutError:
                if future.done():  # it is the work's own
                    raise
            self._look()
            if self.hung:
                future.cancel()
                raise Refusal("time-limit" if begun.is_set() else "busy")

    def _look(self) -> None:
        since = self._since
        late = 0.0 if since is None else time.monotonic() - since - self.limit_s
        if late > 0:
            self._overdue.set()
        if late > self.grace_s:
            self.hung = True
