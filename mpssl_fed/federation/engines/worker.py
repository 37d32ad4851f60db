"""A worker process: it answers for its sites, one after the other, and adds up what they trained where the round's mean is all
that the server wants of it."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Message, MessageType, RecordDict

from mpssl_fed.federation.engines.pipes import ANSWERS, CALL, FLUSH, HURRY, SUM, Outbox
from mpssl_fed.federation.engines.shelf import Parcel, Shelves
from mpssl_fed.federation.messages import TrainReply
from mpssl_fed.federation.server.reading import Kept, Opener, Reader, Sums
from mpssl_fed.federation.site.held import Held

PR_SET_PDEATHSIG = 1
About = tuple[str, int, str, str, float]
"""Of a message to a node: its id, the node, its type, its group, and the seconds in which it wants its answer."""


class Worker:
    """What runs in the process. call: the ClientApp, for any of its nodes; held: what its sites keep in memory; opens: None where
    the server wants each reply."""

    def __init__(
        self, pipe: Connection, shelves: Shelves, call: Callable[[Message], Message], held: Held | None, opens: Opener | None
    ) -> None:
        self._pipe, self._contents, self._call, self._held = pipe, shelves.contents, call, held
        self._adding = None if opens is None else Adding(opens)
        self._content = RecordDict()
        self._abort = Abort()
        self._outbox = Outbox(pipe, shelves.answers)

    def run(self) -> None:
        """Answer what comes through the pipe until it is closed."""
        does: dict[str, Callable[..., None]] = {CALL: self._answer, FLUSH: self._flush, SUM: self._sum}
        while True:
            try:
                kind, *rest = self._pipe.recv()
            except (EOFError, ConnectionResetError):
                return
            does[kind](*rest)

    def _answer(self, counted: list[str], calls: list[About], sent: Parcel | None) -> None:
        """Answer ``calls``. counted: answers that the round took; sent: the content of these messages, None if as before."""
        if sent is not None:
            self._content = self._contents.take(sent)
            if self._adding is not None:
                self._adding.begin()
        if self._adding is not None:
            self._adding.count(counted)
        for number, node, kind, group, ttl in calls:
            message = Message(self._content, node, kind, ttl=ttl, group_id=group)
            message.metadata.__dict__["_message_id"] = number
            reply = self._abort.unless_asked(lambda message=message: self._call(message))
            if reply is None:
                continue
            if self._adding is not None and kind == MessageType.TRAIN and reply.has_content():
                self._adding.keep(self._content, number, reply)
            self._outbox.put(ANSWERS, self._full, reply)
        self._outbox.put(HURRY, self._full, None)

    @property
    def _full(self) -> bool:
        return self._held is not None and self._held.full

    def _sum(self, counted: list[str] | None) -> None:
        self._outbox.put(SUM, self._full, None if self._adding is None else self._adding.sums(counted))
        self._abort.asked = False

    def _flush(self, _counted: list[str] | None) -> None:
        failed = None
        try:
            if self._held is not None:
                self._held.flush()
        except OSError as error:  # the server's process says it; what is not written may be asked for again
            failed = error
        self._outbox.put(FLUSH, self._full, failed)
        self._abort.asked = False


class Adding:
    """The replies of a round, kept until the server says which of them it counts."""

    def __init__(self, opens: Opener) -> None:
        self._opens = opens
        self._reader: Reader | None = None
        self._kept: dict[str, TrainReply] = {}

    def begin(self) -> None:
        """Forget an earlier round."""
        self._reader = None
        self._kept.clear()

    def keep(self, content: RecordDict, number: str, reply: Message) -> None:
        """Keep what ``reply`` to the message ``number`` of that ``content`` has, and leave its numbers; all where it is refused."""
        self._reader = self._reader or self._opens(content)
        try:
            self._kept[number] = self._reader.read(reply.content)
        except Exception:  # noqa: BLE001  # the server looks at it again, and says why
            return
        reply.content = Kept(self._kept[number].metrics)

    def count(self, numbers: list[str]) -> None:
        """Fold the replies to the messages ``numbers``."""
        for number in numbers:
            assert self._reader is not None
            self._reader.take(self._kept.pop(number))

    def sums(self, numbers: list[str] | None) -> Sums | None:
        """Return what was folded, ``numbers`` last; None where nothing was. numbers: None where what is here is of an earlier round
        than the one that is summed."""
        found = None
        if self._reader is not None and numbers is not None:
            self.count(numbers)
            found = self._reader.sums()
        self.begin()
        return found


class Abort:
    """SIGUSR1: drop the work at hand, and all until the next flush or sum."""

    def __init__(self) -> None:
        self.asked = self._working = False
        signal.signal(signal.SIGUSR1, self._heard)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})

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
            if not self.asked:  # it is the app's own: no Ctrl-C reaches a worker
                raise
            return None
        finally:
            self._working = False


def end_with_server() -> None:
    """Let the kernel end this process with the one that forked it, were that killed: nobody else may write to the run."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
