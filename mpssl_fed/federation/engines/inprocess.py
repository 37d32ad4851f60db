"""A Flower Grid without Ray: calls the ClientApp directly, one node after the other, in the order of the messages."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from mpssl_fed.federation.site.held import Held, SimulatedContext

log = logging.getLogger("mpssl_fed.inprocess")

ClientCallable = Callable[[Message, Context], Message]
"""A ``flwr.clientapp.ClientApp``, or anything called like one."""


class InProcessGrid(Grid):
    """Nodes 1..n in this process, each with its own Context that lasts as long as the grid.

    A pushed message waits; each ``pull_messages`` trains one waiting node and returns its reply, so that whoever pulls can
    watch a deadline and a stop signal between two sites. Nothing here runs in parallel: the order of the messages is the
    order of the work, whatever the machine.
    """

    def __init__(
        self, client_app: ClientCallable, node_configs: Sequence[UserConfig], run_id: int = 1, held: Held | None = None
    ) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, SUPERLINK_NODE_ID  # Message() reads them
        self._app = client_app
        self._run = Run.create_empty(run_id)
        self._contexts = {
            node: SimulatedContext(run_id=run_id, node_id=node, node_config=dict(config), state=RecordDict(), run_config={})
            for node, config in enumerate(node_configs, start=1)
        }
        for context in self._contexts.values():
            context.held = held
        self._waiting: dict[str, Message] = {}
        self._numbers = itertools.count(1)

    def set_run(self, run: Run) -> None:
        """Set the run that this grid serves."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that this grid serves."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to ``dst_node_id``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the node ids, ascending."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue ``messages`` and return their ids, in order; those that nobody pulled before their time ran out are dropped."""
        now = time.time()
        expired = [number for number, held in self._waiting.items() if held.metadata.created_at + held.metadata.ttl < now]
        for number in expired:
            del self._waiting[number]
        ids = []
        for message in messages:
            ids.append(str(next(self._numbers)))
            message.metadata.__dict__["_message_id"] = ids[-1]
            self._waiting[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the first queued message among ``message_ids`` and return its reply alone; none when none is queued."""
        wanted = list(message_ids)
        if len(wanted) > 1:
            asked = set(wanted)
            wanted = [number for number in self._waiting if number in asked]
        return next(([self._call(self._waiting.pop(number))] for number in wanted if number in self._waiting), [])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run all ``messages`` and return the replies; nothing is cut off, use push and pull for a deadline."""
        ids = list(self.push_messages(messages))
        return [reply for number in ids for reply in self.pull_messages([number])]

    def _call(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "no such node"), reply_to=message)
        try:
            reply: object = self._app(message, self._contexts[node])
            if not isinstance(reply, Message) or reply.metadata.reply_to_message_id != message.metadata.message_id:
                raise TypeError(f"{type(reply).__name__} is no reply to the message that the app was given")
            return reply
        except Exception as error:  # as Flower's own runtimes do: whatever an app raises becomes its reply
            log.exception("ClientApp of node %d raised", node)
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error)}:<'{error}'>"), reply_to=message)


def run(
    server_app: ServerApp,
    client_app: ClientCallable,
    node_configs: Sequence[UserConfig],
    run_config: Mapping[str, bool | float | int | str] | None = None,
    run_id: int = 1,
    held: Held | None = None,
) -> None:
    """Run ``server_app`` against one node per entry of ``node_configs``; what the ServerApp raises is raised.

    held: what the sites keep in memory, where they need not write it.
    """
    serve(server_app, InProcessGrid(client_app, node_configs, run_id, held), run_config, run_id)


def serve(
    server_app: ServerApp,
    grid: Grid,
    run_config: Mapping[str, bool | float | int | str] | None = None,
    run_id: int = 1,
) -> None:
    """Run ``server_app`` on ``grid``; what it raises is raised."""
    server_app(grid, Context(run_id=run_id, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config or {})))
