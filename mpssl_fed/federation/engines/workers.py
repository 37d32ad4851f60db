"""An in-process Grid whose sites train in worker processes: copies of this one, each with sites of its own for the whole run.

A worker is forked before the first round, so that data, generator and classifier are shared pages that nobody writes. A site is
always at the same worker, one after the other as without workers; what it draws depends on the site alone, so the bits do too.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from flwr.app import Message, RecordDict
from flwr.app.user_config import UserConfig

from mpssl_fed.config import Config
from mpssl_fed.errors import UserError, spoken_to_by_command_line
from mpssl_fed.federation.engines.inprocess import ClientCallable, InProcessGrid
from mpssl_fed.federation.engines.shelf import Shelf
from mpssl_fed.federation.site.held import Held

log = logging.getLogger("mpssl_fed.workers")
AHEAD, READY = 2, 4
"""Messages that a worker has at once, and answers a worker that wait for the server before it gets no more."""

PATIENCE_S, END_S = 0.2, 10.0
"""How long a pull waits for its answer before the caller looks at its deadline; how long a worker may take to end."""

PR_SET_PDEATHSIG = 1
CALL, FLUSH, ANSWER, FLUSHED = "call", "flush", "answer", "flushed"


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
    why = _unfit()
    return (1, f"federation.workers={asked}: {why}; the sites train in this process" if asked else "") if why else (wanted, "")


def _unfit() -> str:
    if sys.platform != "linux":
        return "processes are copied on Linux alone"
    if torch.cuda.is_available():
        return "a process that sees a GPU cannot be copied"
    if threading.current_thread() is not threading.main_thread():
        return "a process can be copied from its main thread alone"
    return "a worker of a study has no workers" if multiprocessing.current_process().daemon else ""


@dataclass
class _Worker:
    """One process as the server's side sees it."""

    process: BaseProcess
    pipe: Connection
    shelf: Shelf
    queue: deque[str] = field(default_factory=deque)
    at_work: list[str] = field(default_factory=list)
    content: RecordDict | None = None
    full: bool = False
    flushed: bool = False


class WorkerGrid(InProcessGrid):
    """Nodes in ``workers`` forked processes. held: the folder of what sites keep in memory, None where they write it themselves."""

    def __init__(self, client_app: ClientCallable, node_configs: Sequence[UserConfig], workers: int, held: Path | None) -> None:
        super().__init__(client_app, node_configs)
        self._ready: dict[str, Message] = {}
        self._ends: dict[str, float] = {}  # message that nobody pulled the answer of -> when it is of no use any more
        self._workers: list[_Worker] = []
        for _ in range(workers):
            ours, theirs = multiprocessing.get_context("fork").Pipe()
            shelf = Shelf(AHEAD)  # of what a worker has at once no more is on its way here
            args = (theirs, ours, shelf, held)
            process = multiprocessing.get_context("fork").Process(target=self._work, args=args, daemon=True)
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours, shelf))

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
        for number in ids:
            meta = self._waiting[number].metadata
            self._ends[number], node = meta.created_at + meta.ttl, meta.dst_node_id
            if node in self._contexts:
                self._workers[(node - 1) % len(self._workers)].queue.append(number)
            else:
                self._ready[number] = self._call(self._waiting.pop(number))
        self._hand_out()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return an answer to one of ``message_ids``, none where none comes in a moment. UserError when a worker has ended."""
        wanted = set(message_ids)
        if wanted & self._ends.keys() and not wanted & self._ready.keys():  # late answers are received too: they are in the way
            begun = any(wanted.intersection(worker.at_work) for worker in self._workers)
            self._take_in(PATIENCE_S if begun else 0.0, wanted)
        found = next((number for number in self._ready if number in wanted), None)
        self._hand_out()
        if found is None:
            return []
        self._ends.pop(found, None)
        return [self._ready.pop(found)]

    def flush(self) -> None:
        """Let all workers write what they hold. Called between rounds: what one is still at came too late, and is dropped."""
        if any(worker.at_work or worker.queue for worker in self._workers):
            self.interrupt()
        for worker in self._workers:
            worker.flushed = False
            _send(worker.pipe, (FLUSH,))
        while not all(worker.flushed for worker in self._workers):
            self._take_in(PATIENCE_S, set())

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

    def _hand_out(self) -> None:
        """Send each worker the next of its messages; content that it does not have yet only while it waits, so that it reads."""
        for worker in self._workers:
            while worker.queue and len(worker.at_work) < AHEAD and len(self._ready) < READY * len(self._workers):
                message = self._waiting.get(worker.queue[0])
                if message is None:  # its time ran out
                    worker.queue.popleft()
                    continue
                known = message.content is worker.content
                if not known and worker.at_work:
                    break
                number = worker.queue.popleft()
                del self._waiting[number]
                worker.content = message.content
                meta = message.metadata
                about = (number, meta.dst_node_id, meta.message_type, meta.group_id, meta.ttl)
                worker.at_work.append(number)  # first: a Ctrl-C comes right after what is sent
                _send(worker.pipe, (CALL, about, None if known else message.content))

    def _take_in(self, patience_s: float, wanted: set[str]) -> None:
        """Receive what comes within ``patience_s``, or until one of ``wanted`` or, where none is wanted, anything has come."""
        pipes: dict[Any, _Worker] = {worker.pipe: worker for worker in self._workers}
        while True:
            came = wait(list(pipes), patience_s)
            for pipe in came:
                self._receive(pipes[pipe])
            self._hand_out()
            if not came or not wanted or wanted & self._ready.keys():
                return

    def _receive(self, worker: _Worker) -> None:
        try:
            with _whole():
                kind, full, *rest = worker.pipe.recv()
                worker.full = full
                if kind == FLUSHED:
                    worker.flushed = True
                    worker.at_work.clear()
                else:
                    number, parcel = rest
                    if number in self._ends:
                        self._ready[number] = worker.shelf.take(parcel)
                    worker.at_work.remove(number)
        except (EOFError, OSError) as error:  # between two messages, or within one
            worker.process.join(END_S)
            raise UserError(
                f"federation.workers={len(self._workers)}: a worker process ended (exit code {worker.process.exitcode}), perhaps "
                "for want of memory; take fewer and go on with resume"
            ) from error

    def _work(self, pipe: Connection, of_server: Connection, shelf: Shelf, held: Path | None) -> None:
        """Be a worker: answer what comes through ``pipe`` until it is closed."""
        of_server.close()
        for earlier in self._workers:
            earlier.pipe.close()
        _end_with_server()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server's process says what to do
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        abort, outbox = _Abort(), SimpleQueue[tuple[Any, ...]]()
        threading.Thread(target=_send_all, args=(pipe, outbox), daemon=True).start()
        memory = None if held is None else Held(held)
        for context in self._contexts.values():
            context.held = memory
        content = RecordDict()
        while True:
            try:
                kind, *rest = pipe.recv()
            except (EOFError, ConnectionResetError):
                return
            if kind == FLUSH:
                if memory is not None:
                    memory.flush()
                outbox.put((FLUSHED, False))
                abort.asked = False
                continue
            (number, node, message_type, group_id, ttl), sent = rest
            content = content if sent is None else sent
            message = Message(content, node, message_type, ttl=ttl, group_id=group_id)
            message.metadata.__dict__["_message_id"] = number
            reply = abort.unless_asked(lambda message=message: self._call(message))
            if reply is not None:
                outbox.put((ANSWER, memory is not None and memory.full, number, shelf.put(reply)))


class _Abort:
    """SIGUSR1: drop the work at hand, and all until the next flush."""

    def __init__(self) -> None:
        self.asked = self._working = False
        signal.signal(signal.SIGUSR1, self._heard)

    def _heard(self, _number: int, _frame: object) -> None:
        self.asked = True
        if self._working:
            raise KeyboardInterrupt

    def unless_asked(self, work: Any) -> Any:
        """Return what ``work`` does, None where it was dropped."""
        try:
            self._working = True
            return None if self.asked else work()
        except KeyboardInterrupt:
            return None
        finally:
            self._working = False


def _end_with_server() -> None:
    """Let the kernel end this process with the one that forked it, were that killed: nobody else may write to the run."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _send(pipe: Connection, what: tuple[Any, ...]) -> None:
    with _whole():
        pipe.send(what)


def _send_all(pipe: Connection, outbox: SimpleQueue[tuple[Any, ...]]) -> None:
    """Send what is put into ``outbox``: an answer may be larger than a pipe, and a worker need not wait for the server."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    with suppress(BrokenPipeError, ConnectionResetError):
        while True:
            pipe.send(outbox.get())


@contextmanager
def _whole() -> Iterator[None]:
    """Let no Ctrl-C or SIGUSR1 cut what is read or written in two; it comes right after.

    A mask of this thread would not do: another thread takes the signal then, and Python handles it here all the same.
    """
    if threading.current_thread() is not threading.main_thread():  # which takes no signal
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    try:
        for number in ours:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
