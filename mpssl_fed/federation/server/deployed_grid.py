"""Flower's grid as a deployed run uses it: arrays packed on their way to those who read them so, answers asked for unhurriedly."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from mpssl_fed.codes import Code
from mpssl_fed.federation.messages import ARRAYS, SITE
from mpssl_fed.federation.packed import PACKED, in_one, is_one, size, values
from mpssl_fed.federation.refusal import code_of

LOOK_EVERY_S = 0.5
"""Between two looks for one answer, the first after as long. Flower shows an answer for a tenth of a second or so before all of it
has come; who looks just then waits for a second more, and who looks every tenth always does."""

SLACK = 2**20
"""Bytes of a reply in one array that are unpacked whatever was sent, beyond four times as many as were: masked integers take twice
what weights do."""

FORGOTTEN_S = 3600.0
"""After so long a message that nobody looks for any more is forgotten: a site that never answers leaves nothing behind."""


class DeployedGrid(Grid):
    """``grid`` for those who send and receive arrays one by one: packed for nodes whose card says that they read it."""

    def __init__(self, grid: Grid, look_every_s: float = LOOK_EVERY_S) -> None:
        self._grid, self._every_s = grid, look_every_s
        self._asked: dict[str, int] = {}  # query without an answer -> its node
        self._looked: dict[str, float] = {}  # message without an answer -> when it was last looked for
        self._reading: set[int] = set()
        self._largest = 0  # bytes of arrays in a message

    def set_run(self, run: Any) -> None:
        """Set the run that the grid serves."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run that the grid serves."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to ``dst_node_id``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes online."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send ``messages`` and return their ids; what several share is packed once."""
        sent, made = list(messages), dict[int, ArrayRecord]()
        contents = {id(message.content): message.content for message in sent}.values()
        self._largest = max([self._largest, *map(size, contents)])
        ids, now = list(self._grid.push_messages([self._packed(message, made) for message in sent])), time.monotonic()
        self._looked = {number: at for number, at in self._looked.items() if now - at < FORGOTTEN_S}
        self._asked = {number: node for number, node in self._asked.items() if number in self._looked}
        self._looked |= dict.fromkeys(filter(None, ids), now)
        queries = (message.metadata.message_type == MessageType.QUERY for message in sent)
        self._asked |= {
            number: message.metadata.dst_node_id
            for number, message, asks in zip(ids, sent, queries, strict=False)
            if asks and number
        }
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have come, unpacked; of a message that was looked for just now, none.

        ValueError for one that is not what it says.
        """
        now = time.monotonic()
        due = [number for number in message_ids if now - self._looked.get(number, -self._every_s) >= self._every_s]
        self._looked |= dict.fromkeys(due, now)
        replies = list(self._grid.pull_messages(due)) if due else []
        for reply in replies:
            node = self._asked.pop(reply.metadata.reply_to_message_id, None)
            self._looked.pop(reply.metadata.reply_to_message_id, None)
            if not reply.has_content():
                if code_of(reply.error) == Code.MALFORMED:  # its package may be an older one than when it sent its card
                    self._reading.discard(reply.metadata.src_node_id)
                continue
            card, arrays = reply.content.get(SITE), reply.content.get(ARRAYS)
            if node is not None and isinstance(card, ConfigRecord) and card.get(PACKED) == 1:
                self._reading.add(node)
            if isinstance(arrays, ArrayRecord) and is_one(arrays):
                if size(reply.content) > 4 * self._largest + SLACK:
                    raise ValueError(f"{size(reply.content)} bytes of arrays, {self._largest} were sent")
                reply.content[ARRAYS] = ArrayRecord({name: Array(value) for name, value in sorted(values(arrays).items())})
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Not for rounds, which have a deadline and a stop: those push and pull."""
        raise NotImplementedError("push and pull")

    def _packed(self, message: Message, made: dict[int, ArrayRecord]) -> Message:
        arrays, about = message.content.get(ARRAYS), message.metadata
        if about.dst_node_id not in self._reading or not isinstance(arrays, ArrayRecord) or len(arrays) < 2:
            return message
        if id(arrays) not in made:
            made[id(arrays)] = in_one(arrays)
        content = RecordDict({**message.content, ARRAYS: made[id(arrays)]})
        return Message(content, about.dst_node_id, about.message_type, ttl=about.ttl, group_id=about.group_id)
