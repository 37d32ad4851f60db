"""Asking nodes and collecting what comes back in time: joining, one round's messages, and what was left out and why."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError

from mpssl_fed.errors import UserError
from mpssl_fed.federation.messages import SiteCard, query
from mpssl_fed.federation.refusal import Refusal, code_of

log = logging.getLogger("mpssl_fed.server")
T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S, WAIT_A_SITE_S = 0.02, 1.0, 0.04
"""Between two looks for answers: longer each time that none has come, up to so much a site, since each is asked for apart."""
QUERY_S, ASK_AGAIN_S = 120.0, 2.0
"""A node has so long to say who it is; one that declined is asked again after so long."""
SETTLE_S = 3.0
"""How long the number of nodes must stand still before fewer than expected are taken for all."""

BROKEN = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    MemoryError,
    DecodeError,
)
"""What unpacking bytes of a node's own making may raise; a SuperLink that does not answer raises something else."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop while it waited."""


@dataclass
class Answers:
    """What came back from the sites asked: good ones by site, the others counted by code, the silent ones as missing."""

    good: dict[int, object] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    codes: dict[int, str] = field(default_factory=dict)
    """Site -> why it is among the rejected."""


def ask(
    grid: Grid,
    contents: Mapping[int, tuple[int, RecordDict]],
    kind: str,
    read: Callable[[RecordDict], T],
    deadline_s: float,
    stop: threading.Event | None = None,
) -> Answers:
    """Send each key (a site) its (node id, content) and return what ``read`` makes of the replies within ``deadline_s``.

    Replies after the deadline count as missing. ``read`` raises Refusal for a reply that is not to be used. Raises Stopped
    when ``stop`` is set. Nothing that a node sends raises.
    """
    ends = time.monotonic() + deadline_s
    keys = list(contents)
    messages = [Message(contents[key][1], contents[key][0], kind, ttl=max(deadline_s, 1.0)) for key in keys]
    ids = list(grid.push_messages(messages))
    waiting = {number: key for number, key in zip(ids, keys, strict=False) if number}
    answers = Answers()
    pause = FIRST_WAIT_S
    while waiting and time.monotonic() <= ends:
        heard = False
        for number in list(waiting):
            if stop is not None and stop.is_set():
                raise Stopped
            reply = pull(grid, number)
            if time.monotonic() > ends:
                break
            if reply is not None:
                heard = True
                _sort(answers, waiting.pop(number), reply, read)
        longest = min(LONGEST_WAIT_S, WAIT_A_SITE_S * len(waiting), max(ends - time.monotonic(), 0))
        pause = FIRST_WAIT_S if heard else min(2 * pause, longest)
        if waiting and not heard:
            time.sleep(pause)
    answers.missing = len(keys) - len(answers.good) - answers.rejected.total()
    answers.good = {key: answers.good[key] for key in sorted(answers.good)}
    return answers


def pull(grid: Grid, number: str) -> Message | Refusal | None:
    """Return the reply to one message, None while there is none, Refusal for one that cannot be unpacked.

    One at a time: Flower unpacks what a node sent while it pulls, and an error there would take the others' replies with it.
    """
    try:
        return next(iter(grid.pull_messages([number])), None)
    except BROKEN as error:
        log.warning("a reply cannot be unpacked: %s", type(error).__name__, exc_info=True)
        return Refusal("malformed")


def _sort(answers: Answers, key: int, reply: Message | Refusal, read: Callable[[RecordDict], T]) -> None:
    try:
        if isinstance(reply, Refusal):
            raise reply
        if reply.has_error():
            answers.codes[key] = code_of(reply.error)
        else:
            answers.good[key] = read(reply.content)
    except Refusal as refusal:
        answers.codes[key] = refusal.code
    except Exception:  # one site's reply must not end the run of all, whatever is in it
        log.exception("the reply of site %d could not be read", key)
        answers.codes[key] = "unreadable"
    if key in answers.codes:
        answers.rejected[answers.codes[key]] += 1


@dataclass
class Roster:
    """Which site answers at which node. Nodes come and go; a restarted one may come back under another id.

    A number belongs to the node that has been seen for longest among those online that claim it: a site that comes later can
    take it from nobody, and one that comes back, under its old id or in place of a node that is gone, gets it again. ``tell``
    hears of every other claim once.
    """

    grid: Grid
    tell: Callable[[str], None] = log.warning
    cards: dict[int, SiteCard] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    pretenders: int = 0
    """How many nodes online were left out of the last look since their number is another's."""
    _seen: dict[int, int] = field(default_factory=dict)  # node -> when it was first online, as a place in the order
    _asked: dict[str, tuple[int, float]] = field(default_factory=dict)  # query without an answer -> its node and its end
    _again: dict[int, float] = field(default_factory=dict)  # node that declined -> when it is asked again
    _told: set[int] = field(default_factory=set)

    def sites(self, wait_s: float, stop: threading.Event | None = None) -> dict[int, int]:
        """Return site -> node of the nodes that are online now, in the order of the sites.

        A node that is online for the first time is asked who it is and waited for within ``wait_s``; one that stayed silent
        before is not waited for again.
        """
        ends, pause = time.monotonic() + wait_s, FIRST_WAIT_S
        new = self._ask()
        while new & self._listen(stop) and time.monotonic() < ends:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_WAIT_S, max(ends - time.monotonic(), 0.0))
        return self._holders()

    def join(self, expected: int | None, min_sites: int, deadline_s: float, stop: threading.Event | None = None) -> dict[int, int]:
        """Wait for the sites and return site -> node.

        Done when ``expected`` sites are there (None: as many as Flower's simulation says it has), or when at least
        ``min_sites`` are and their number stood still for a while. UserError when the deadline passes before.
        """
        ends = time.monotonic() + deadline_s
        since, before = time.monotonic(), -1
        while True:
            self._ask()
            self._listen(stop)
            sites = self._holders()
            if len(sites) >= (expected or self.simulated or float("inf")):
                return sites
            if len(sites) != before:
                since, before = time.monotonic(), len(sites)
            settled = time.monotonic() - since > SETTLE_S and (expected is None or time.monotonic() > ends)
            if len(sites) >= min_sites and settled:
                return sites
            if time.monotonic() > ends:
                raise UserError(
                    f"{len(sites)} of at least {min_sites} sites joined within federation.join_deadline_s={deadline_s:g} s"
                    + (f"; refused: {dict(self.refused)}" if self.refused else "")
                    + ". Start more nodes, lower federation.min_sites or wait longer."
                )
            time.sleep(0.1)

    @property
    def simulated(self) -> int:
        """How many nodes Flower's simulation has by what all say; 0 in a deployment, where one honest site is enough to say so."""
        return min((card.partitions for card in self.cards.values()), default=0)

    def _ask(self) -> set[int]:
        """Ask the nodes online that have no card, and are not being asked, who they are; return those online for the first time."""
        now, online = time.monotonic(), sorted(self.grid.get_node_ids())
        new = {node for node in online if node not in self._seen}
        self._seen |= {node: len(self._seen) + place for place, node in enumerate(sorted(new))}
        self._asked = {number: (node, ends) for number, (node, ends) in self._asked.items() if ends > now}
        busy = self.cards.keys() | {node for node, _ in self._asked.values()}
        due = [node for node in online if node not in busy and self._again.get(node, now) <= now]
        messages = [Message(query(), node, MessageType.QUERY, ttl=QUERY_S) for node in due]
        if messages:
            ids = zip(self.grid.push_messages(messages), due, strict=False)
            self._asked |= {number: (node, now + QUERY_S) for number, node in ids if number}
        return new

    def _listen(self, stop: threading.Event | None) -> set[int]:
        """Take in the answers that have come; return the nodes that have not answered."""
        for number, (node, _) in list(self._asked.items()):
            if stop is not None and stop.is_set():
                raise Stopped
            reply = pull(self.grid, number)
            if reply is not None:
                del self._asked[number]
                answers = Answers()
                _sort(answers, node, reply, SiteCard.from_record)
                self.cards |= answers.good  # type: ignore[arg-type]
                self.refused += answers.rejected
                self._again[node] = time.monotonic() + ASK_AGAIN_S
        return {node for node, _ in self._asked.values()}

    def _holders(self) -> dict[int, int]:
        online, found = set(self.grid.get_node_ids()), dict[int, int]()
        known = sorted(self.cards.keys() & online, key=self._seen.__getitem__)
        for node in known:
            holder = found.setdefault(self.cards[node].partition, node)
            if holder != node and node not in self._told:
                self._told.add(node)
                self.tell(
                    f"node {node} says it is site {self.cards[node].partition}, as node {holder} did before: it is left out while "
                    "that one is online. Every site has its own number (mpssl-fed site --number, partition-id)"
                )
        self.pretenders = len(known) - len(found)
        return dict(sorted(found.items()))
