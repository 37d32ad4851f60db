"""A round's replies, read and folded as they come: by the server, or by the worker process in which their sites trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from flwr.app import RecordDict

from mpssl_fed.config import Config
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import TrainReply, TrainRequest
from mpssl_fed.federation.server.strategy import Aggregator, Fold
from mpssl_fed.federation.weights import from_record
from mpssl_fed.models import Block, Weights


class Kept(RecordDict):
    """The content of a reply whose weights stay in the worker that trained them: its numbers, read and checked there.

    Nothing that comes over a wire is one. count: called once the round counts the reply, so that the worker adds it up.
    """

    def __init__(self, metrics: dict[str, float]) -> None:
        super().__init__()
        self.metrics = metrics
        self.count: Callable[[], None] = lambda: None

    def __reduce__(self) -> tuple[type[Kept], tuple[dict[str, float]]]:
        """Go to another process as it is."""
        return Kept, (self.metrics,)


@dataclass(frozen=True)
class Sums:
    """What a worker added up of a round: vectors [size] that add up to the sum, its weight, and the seconds that reading and
    folding took there."""

    parts: tuple[np.ndarray, ...]
    total: float
    reading: float
    folding: float


@runtime_checkable
class SumsAtNodes(Protocol):
    """A grid whose nodes' replies are added up where they are trained."""

    def sums(self) -> Iterable[Sums]:
        """Return what was added up of the replies that the round counted; what nobody counted is in none. It ends each round."""


class Reader:
    """Reads replies, folds them into the round and adds up the seconds that either takes."""

    def __init__(self, like: Weights, most_examples: int, fold: Fold) -> None:
        self.like, self.most_examples, self.fold = like, most_examples, fold
        self.reading = self.folding = 0.0

    def __call__(self, record: RecordDict) -> TrainReply:
        """Return what is still to be held of the reply in ``record``; Refusal as :meth:`TrainReply.from_record`."""
        if isinstance(record, Kept):
            record.count()
            return TrainReply({}, record.metrics)
        return self.take(self.read(record))

    def read(self, record: RecordDict) -> TrainReply:
        """Return the reply in ``record``; Refusal as :meth:`TrainReply.from_record`."""
        start = time.perf_counter()
        try:
            return TrainReply.from_record(record, self.like, self.most_examples)
        finally:
            self.reading += time.perf_counter() - start

    def take(self, reply: TrainReply) -> TrainReply:
        """Fold ``reply`` and return what is still to be held of it."""
        start = time.perf_counter()
        left = self.fold.take(reply)
        self.folding += time.perf_counter() - start
        return left

    def sums(self) -> Sums:
        """Return what was folded, to be taken in by another."""
        start = time.perf_counter()
        summed, total = self.fold.parts()
        return Sums(summed, total, self.reading, self.folding + time.perf_counter() - start)

    def take_sums(self, sums: Sums) -> None:
        """Fold what another folded."""
        start = time.perf_counter()
        self.fold.merge(sums.parts, sums.total)
        self.reading += sums.reading
        self.folding += sums.folding + time.perf_counter() - start


Opener = Callable[[RecordDict], Reader]
"""The content of a round's train message -> what reads and folds its replies."""


def opener(config: Config) -> Opener | None:
    """Return what opens the rounds of ``config`` in a worker; None where the server has to see each reply."""
    aggregator = Aggregator(config.federation)
    if config.federation.aggregation != "plain" or aggregator.wants_every_reply:
        return None
    like = parts.initial_classifier(config).shared_state()

    def open_round(content: RecordDict) -> Reader:
        start = Block.of(from_record(TrainRequest.from_record(content).weights, like))
        return Reader(start, config.federation.max_examples, aggregator.open(start))

    return open_round
