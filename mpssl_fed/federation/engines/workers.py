"""An in-process Grid whose sites train in worker processes: copies of this one, each with sites of its own for the whole run.

A worker is forked before the first round, so that data, generator and classifier are shared pages that nobody writes. A site is
always at the same worker, one after the other as without workers; what it draws depends on the site alone, so the bits do too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from flwr.app import Message, RecordDict
from flwr.app.user_config import UserConfig

from mpssl_fed.config import Config
from mpssl_fed.errors import UserError, spoken_to_by_command_line
from mpssl_fed.federation.engines.inprocess import ClientCallable, InProcessGrid
from mpssl_fed.federation.engines.pipes import ANSWERS, CALL, FLUSH, SUM, send, whole
from mpssl_fed.federation.engines.shelf import Parcel, Shelves
from mpssl_fed.federation.engines.worker import About, Worker, end_with_server
from mpssl_fed.federation.packed import size
from mpssl_fed.federation.server.reading import Kept, Opener, Sums
from mpssl_fed.federation.site.held import Held

AHEAD, MOST_AHEAD, READY = 2, 32, 4
"""Messages that a worker has at once, and at most where it keeps its answers; answers a worker that wait for the server before it
gets no more of AHEAD, and of more messages in proportion."""

KEPT = 16 * 2**20
"""Bytes of the answers that a worker keeps of what it has at once, where they are more than AHEAD."""

PATIENCE_S, END_S = 0.2, 10.0
"""How long a pull waits for its answer before the caller looks at its deadline; how long a worker may take to end."""

SILENT_S = 600.0
"""How long a worker may take to hand over sums or to write what it holds: by then it is stopped, or hangs."""


def workers_of(config: Config) -> tuple[int, str]:
    """Return how many processes train the sites of ``config``, and in words why not as many as it asks for ("": they are).

    By default one in Python, whose caller may have threads and closures that a copy of the process would miss, and on the command
    line as many as there are cores.
    """
    asked = config.federation.workers
    forks = hasattr(os, "sched_getaffinity") and hasattr(socket, "AF_UNIX")  # elsewhere no process is a copy of this one
    cores = len(os.sched_getaffinity(0)) if forks else 1
    wanted = min(asked or (cores if spoken_to_by_command_line() else 1), config.federation.sites)
    if wanted == 1:
        return 1, ""
    why = _unfit(config)
    return (1, f"federation.workers={asked}: {why}; the sites train in this process" if asked else "") if why else (wanted, "")


def _unfit(config: Config) -> str:
    if sys.platform != "linux":
        return "processes are copied on Linux alone"
    if torch.cuda.is_available():
        return "a process that sees a GPU cannot be copied"
    if config.runtime.threads > 1:  # a copy has none of them, and waits for them for ever
        return f"a process whose torch has threads (runtime.threads={config.runtime.threads}) cannot be copied"
    if threading.current_thread() is not threading.main_thread():
        return "a process can be copied from its main thread alone"
    return "a worker of a study has no workers" if multiprocessing.current_process().daemon else ""


@dataclass
class _Side:
    """One worker as the server's process sees it. counted: its answers that the round took and that it does not know of."""

    process: BaseProcess
    pipe: Connection
    shelves: Shelves
    queue: deque[str] = field(default_factory=deque)
    at_work: set[str] = field(default_factory=set)
    counted: list[str] = field(default_factory=list)
    content: RecordDict | None = None
    ahead: int = AHEAD
    full: bool = False
    told: dict[str, Any] = field(default_factory=dict)


class WorkerGrid(InProcessGrid):
    """Nodes in ``workers`` forked processes.

    held: the folder of what sites keep in memory, None where they write it themselves. opens: what reads and folds a round's
    replies where they are trained, None where they come here.
    """

    def __init__(
        self,
        client_app: ClientCallable,
        node_configs: Sequence[UserConfig],
        workers: int,
        held: Path | None = None,
        opens: Opener | None = None,
    ) -> None:
        super().__init__(client_app, node_configs)
        self._opens = opens
        self._content: RecordDict | None = None  # of the last messages
        self._ready: dict[str, Message] = {}
        self._ends: dict[str, float] = {}  # message that nobody pulled the answer of -> when it is of no use any more
        self._workers: list[_Side] = []
        try:
            for _ in range(workers):
                self._workers.append(self._forked(held))
        except OSError as error:
            self.end()
            raise UserError(f"federation.workers={workers}: no process can be copied ({error}); take fewer") from error

    @property
    def full(self) -> bool:
        """Whether a worker had to write what it holds."""
        return any(worker.full for worker in self._workers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue ``messages``, each at the worker of its node, and return their ids, in order."""
        now = time.time()
        self._ends = {number: end for number, end in self._ends.items() if end > now}
        self._ready = {number: reply for number, reply in self._ready.items() if number in self._ends}
        ids = list(super().push_messages(messages))
        self._content = self._waiting[ids[-1]].content if ids else None
        for number in ids:
            meta = self._waiting[number].metadata
            self._ends[number], node = meta.created_at + meta.ttl, meta.dst_node_id
            if node in self._contexts:
                self._of(node).queue.append(number)
            else:
                self._ready[number] = self._call(self._waiting.pop(number))
        self._hand_out()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return an answer to one of ``message_ids``, none where none comes in a moment. UserError when a worker has ended."""
        wanted = set(message_ids)
        if wanted & self._ends.keys() and not wanted & self._ready.keys():  # late answers are received too: they are in the way
            begun = any(wanted & worker.at_work for worker in self._workers)
            self._take_in(PATIENCE_S if begun else 0.0, wanted)
        found = next((number for number in self._ready if number in wanted), None)
        self._hand_out()
        if found is None:
            return []
        self._ends.pop(found, None)
        return [self._ready.pop(found)]

    def sums(self) -> Iterable[Sums]:
        """Return what each worker added up of the replies that were counted. What one is still at came too late, and is dropped."""
        if self._opens is None and not self._busy:
            return []
        return [sums for sums in self._asked(SUM) if sums is not None]

    def flush(self) -> None:
        """Let all workers write what they hold; OSError where one cannot.

        Called between rounds: what one is still at came too late, and is dropped.
        """
        for failed in self._asked(FLUSH):
            if failed is not None:
                raise failed

    def interrupt(self) -> None:
        """Let all workers drop what they are at and what they have been sent."""
        for worker in self._workers:
            worker.queue.clear()
            if worker.process.is_alive() and worker.process.pid:
                os.kill(worker.process.pid, signal.SIGUSR1)

    def end(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _forked(self, held: Path | None) -> _Side:
        context, shelves = multiprocessing.get_context("fork"), Shelves(AHEAD)
        ours, theirs = context.Pipe()
        process = context.Process(target=self._work, args=(theirs, ours, shelves, held), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # it would end a copy that does not know it yet
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        return _Side(process, ours, shelves)

    def _of(self, node: int) -> _Side:
        return self._workers[(node - 1) % len(self._workers)]

    @property
    def _busy(self) -> bool:
        return any(worker.at_work or worker.queue for worker in self._workers)

    def _asked(self, kind: str) -> list[Any]:
        """Ask each worker for what ``kind`` says, once it has dropped what it is at, and return what they tell."""
        if self._busy:
            self.interrupt()
        for worker in self._workers:
            worker.told.clear()
            counted, worker.counted = worker.counted, []
            self._send(worker, (kind, counted if worker.content is self._content else None))
        ends = time.monotonic() + SILENT_S
        while silent := [worker for worker in self._workers if kind not in worker.told]:
            if time.monotonic() > ends:
                raise self._silent(silent[0])
            self._take_in(PATIENCE_S, set())
        return [worker.told.pop(kind) for worker in self._workers]

    def _hand_out(self) -> None:
        """Send each worker the next of its messages; content that it does not have yet only while it waits, so that it reads."""
        for worker in self._workers:
            few = len(self._ready) < READY * len(self._workers) * worker.ahead // AHEAD
            if few and worker.queue and 2 * len(worker.at_work) <= worker.ahead:
                self._hand_to(worker)

    def _hand_to(self, worker: _Side) -> None:
        calls: list[About] = []
        sent: Parcel | None = None
        while worker.queue and len(worker.at_work) < worker.ahead:
            message = self._waiting.get(worker.queue[0])
            if message is None:  # its time ran out
                worker.queue.popleft()
                continue
            if message.content is not worker.content:
                if worker.at_work:
                    break
                worker.content, sent = message.content, worker.shelves.contents.put(message.content)
                worker.ahead = AHEAD if self._opens is None else min(max(AHEAD, KEPT // max(1, size(message.content))), MOST_AHEAD)
                worker.counted.clear()  # of a round that nobody summed
            number = worker.queue.popleft()
            del self._waiting[number]
            meta = message.metadata
            calls.append((number, meta.dst_node_id, meta.message_type, meta.group_id, meta.ttl))
            worker.at_work.add(number)  # first: a Ctrl-C comes right after what is sent
        if calls:
            counted, worker.counted = worker.counted, []
            self._send(worker, (CALL, counted, calls, sent))

    def _take_in(self, patience_s: float, wanted: set[str]) -> None:
        """Receive what comes within ``patience_s``, or until one of ``wanted`` or, where none is wanted, anything has come."""
        pipes: dict[Any, _Side] = {worker.pipe: worker for worker in self._workers}
        while True:
            came = wait(list(pipes), patience_s)
            for pipe in came:
                self._receive(pipes[pipe])
            self._hand_out()
            if not came or not wanted or wanted & self._ready.keys():
                return

    def _receive(self, worker: _Side) -> None:
        try:
            with whole():
                kind, worker.full, what = worker.pipe.recv()
                told = worker.shelves.answers.take(what)
                if kind == ANSWERS:
                    self._answered(worker, told)
                else:
                    worker.told[kind] = told
                    worker.at_work.clear()
        except (EOFError, OSError) as error:  # between two messages, or within one
            raise self._lost(worker) from error

    def _send(self, worker: _Side, what: tuple[Any, ...]) -> None:
        try:
            send(worker.pipe, what)
        except OSError as error:  # it ended while nobody waited for it
            raise self._lost(worker) from error

    def _lost(self, worker: _Side) -> UserError:
        worker.process.join(END_S)
        code = worker.process.exitcode
        cure = ", perhaps for want of memory; take fewer and" if code == -signal.SIGKILL else ";"
        return UserError(
            f"federation.workers={len(self._workers)}: a worker process ended (exit code {code}){cure} go on with resume"
        )

    def _silent(self, worker: _Side) -> UserError:
        worker.process.kill()  # so that nobody waits for it once more
        return UserError(
            f"federation.workers={len(self._workers)}: a worker process ({worker.process.pid}) has said nothing for {SILENT_S:g} "
            "s, as one that is stopped or waits for a disk; it was ended, go on with resume"
        )

    def _answered(self, worker: _Side, replies: list[Message]) -> None:
        for reply in replies:
            number = reply.metadata.reply_to_message_id
            worker.at_work.remove(number)
            if number in self._ends:
                self._ready[number] = reply
                if reply.has_content() and isinstance(reply.content, Kept):
                    reply.content.count = partial(worker.counted.append, number)

    def _work(self, pipe: Connection, of_server: Connection, shelves: Shelves, held: Path | None) -> None:
        """Be a worker."""
        of_server.close()
        for earlier in self._workers:
            earlier.pipe.close()
        end_with_server()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server's process says what to do
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        memory = None if held is None else Held(held)
        for context in self._contexts.values():
            context.held = memory
        Worker(pipe, shelves, self._call, memory, self._opens).run()
