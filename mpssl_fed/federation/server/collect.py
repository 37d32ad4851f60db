"""Asking nodes and collecting what comes back in time: joining, one round's messages, and what was left out and why."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from mpssl_fed.errors import UserError
from mpssl_fed.federation.messages import SiteCard, query
from mpssl_fed.federation.refusal import Refusal, code_of

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.02, 1.0
SETTLE_S = 3.0
"""How long the number of nodes must stand still before fewer than expected are taken for all."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop while it waited."""


@dataclass
class Answers:
    """What came back from the sites asked: good ones by site, the others counted by code, the silent ones as missing."""

    good: dict[int, object] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    missing: int = 0


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
    when ``stop`` is set.
    """
    ends = time.monotonic() + deadline_s
    keys = list(contents)
    messages = [Message(contents[key][1], contents[key][0], kind, ttl=max(deadline_s, 1.0)) for key in keys]
    ids = list(grid.push_messages(messages))
    waiting = {number: key for number, key in zip(ids, keys, strict=False) if number}
    answers = Answers()
    pause = FIRST_WAIT_S
    while waiting:
        if stop is not None and stop.is_set():
            raise Stopped
        replies = list(grid.pull_messages(list(waiting)))
        if time.monotonic() > ends:
            break
        for reply in replies:
            key = waiting.pop(reply.metadata.reply_to_message_id, None)
            if key is not None:
                _sort(answers, key, reply, read)
        pause = FIRST_WAIT_S if replies else min(2 * pause, LONGEST_WAIT_S, max(ends - time.monotonic(), 0))
        if waiting and not replies:
            time.sleep(pause)
    answers.missing = len(keys) - len(answers.good) - answers.rejected.total()
    answers.good = {key: answers.good[key] for key in sorted(answers.good)}
    return answers


def _sort(answers: Answers, key: int, reply: Message, read: Callable[[RecordDict], T]) -> None:
    if reply.has_error():
        answers.rejected[code_of(reply.error)] += 1
        return
    try:
        answers.good[key] = read(reply.content)
    except Refusal as refusal:
        answers.rejected[refusal.code] += 1


@dataclass
class Roster:
    """Which site answers at which node. Nodes come and go; a restarted one may come back under another id."""

    grid: Grid
    cards: dict[int, SiteCard] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def sites(self, wait_s: float, stop: threading.Event | None = None) -> dict[int, int]:
        """Return site -> node of the nodes that are online now; unknown nodes are asked who they are, within ``wait_s``.

        UserError when two nodes online claim to be the same site.
        """
        online = sorted(self.grid.get_node_ids())
        new = {node: (node, query()) for node in online if node not in self.cards}
        if new:
            answers = ask(self.grid, new, MessageType.QUERY, SiteCard.from_record, wait_s, stop)
            self.cards |= answers.good  # type: ignore[arg-type]
            self.refused += answers.rejected
        found: dict[int, int] = {}
        for node in online:
            if node not in self.cards:
                continue
            site = self.cards[node].partition
            if site in found:
                raise UserError(f"two nodes are both site {site} (partition-id); give each SuperNode its own partition-id")
            found[site] = node
        return dict(sorted(found.items()))

    def join(self, expected: int | None, min_sites: int, deadline_s: float, stop: threading.Event | None = None) -> dict[int, int]:
        """Wait for the sites and return site -> node.

        Done when ``expected`` sites are there (None: as many as Flower's simulation says it has), or when at least
        ``min_sites`` are and their number stood still for a while. UserError when the deadline passes before.
        """
        ends = time.monotonic() + deadline_s
        since, before = time.monotonic(), -1
        while True:
            sites = self.sites(max(ends - time.monotonic(), 0.0), stop)
            total = max((card.partitions for card in self.cards.values()), default=0)
            if len(sites) >= (expected or total or float("inf")):
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
