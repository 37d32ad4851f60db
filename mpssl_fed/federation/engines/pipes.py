"""What goes between the server's process and a worker, whole whatever signal comes."""

from __future__ import annotations

import logging
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode

from mpssl_fed.federation.engines.shelf import Parcel, Shelf

log = logging.getLogger("mpssl_fed.workers")

CALL, FLUSH, SUM = "call", "flush", "sum"
"""To a worker: messages to answer; write what is held; hand over what was added up. It tells of the last two when they are done."""

ANSWERS, HURRY = "answers", "hurry"
"""From a worker; and to its outbox, once no more answers come until the server asks for some."""

TOGETHER_S = 0.05
"""Answers that are done within so much are sent together: each time the server wakes it takes a core from a worker."""


def send(pipe: Connection, what: tuple[Any, ...]) -> None:
    """Send ``what``, pickled."""
    with whole():
        pipe.send(what)


class Outbox:
    """What a worker tells the server. A thread sends it: an answer may be larger than a pipe, and a worker need not wait for the
    server. Answers that are done within TOGETHER_S go together."""

    def __init__(self, pipe: Connection, shelf: Shelf) -> None:
        self._pipe, self._shelf = pipe, shelf
        self._queue: SimpleQueue[tuple[str, bool, Any]] = SimpleQueue()
        threading.Thread(target=self._send_all, daemon=True).start()

    def put(self, kind: str, full: bool, what: Any) -> None:
        """Send ``what``: of kind ANSWERS in a moment, and all others, with the answers before, at once."""
        self._queue.put((kind, full, what))

    def _send_all(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
        with suppress(BrokenPipeError, ConnectionResetError):
            while True:
                answers, told = self._next()
                if answers:
                    self._pipe.send((ANSWERS, answers[-1][1], self._laid([what for _, _, what in answers])))
                if told is not None and told[0] != HURRY:
                    self._pipe.send((told[0], told[1], self._shelf.put(told[2])))

    def _laid(self, replies: list[Message]) -> Parcel:
        """Lay down ``replies``; one that no process can be sent goes as the error of its app."""
        try:
            return self._shelf.put(replies)
        except Exception:  # whatever it is, the server waits for an answer  # noqa: BLE001
            return self._shelf.put([_sent(reply) for reply in replies])

    def _next(self) -> tuple[list[tuple[str, bool, Any]], tuple[str, bool, Any] | None]:
        """Return the answers that go together, and what ended them, None if it was the time."""
        answers: list[tuple[str, bool, Any]] = []
        ends: float | None = None
        while True:
            try:
                one = self._queue.get(timeout=None if ends is None else max(ends - time.monotonic(), 0.0))
            except Empty:
                return answers, None
            if one[0] != ANSWERS:
                return answers, one
            answers.append(one)
            ends = ends or time.monotonic() + TOGETHER_S


def _sent(reply: Message) -> Message:
    try:
        pickle.dumps(reply, protocol=5)
    except Exception as error:
        log.exception("the reply of node %d cannot be sent", reply.metadata.src_node_id)
        told = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error)}:<'{error}'>")
        return make_message(metadata=reply.metadata, error=told)
    return reply


@contextmanager
def whole() -> Iterator[None]:
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
