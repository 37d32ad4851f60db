"""From a round's replies to new global weights: Flower's strategy classes, fed in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, Metadata, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedYogi
from torch import Tensor

from mpssl_fed.config.federation import Federation
from mpssl_fed.errors import UserError
from mpssl_fed.federation.messages import EXAMPLES, TrainReply
from mpssl_fed.federation.server.mean import RunningMean
from mpssl_fed.federation.server.robust import ROBUST
from mpssl_fed.models import Block, Layout, Weights
from mpssl_fed.registry import Registry

Factory = Callable[[Any], Any]
STRATEGIES: Registry[Factory] = Registry("strategies")
"""Name -> function of the config section ``federation.strategy`` to a ``flwr.serverapp.strategy.Strategy``. A plug-in whose
object has ``wants_every_reply = True`` gets each reply; the others get their weighted mean, taken here in float64."""

STATE_ATTRIBUTES = ("momentum_vector", "m_t", "v_t")
"""Where Flower's classes keep what lasts from round to round."""


@STRATEGIES.add("fedavg")
def _fedavg(_section: Any) -> FedAvg:
    return FedAvg()


@STRATEGIES.add("fedprox")
def _fedprox(_section: Any) -> FedAvg:
    """FedProx (arXiv 1812.06127) differs at the sites alone: their proximal term comes with the config."""
    return FedAvg()


@STRATEGIES.add("fedavgm")
def _fedavgm(section: Any) -> FedAvgM:
    return FedAvgM(server_learning_rate=section.server_lr, server_momentum=section.server_momentum)


@STRATEGIES.add("fedadam")
def _fedadam(section: Any) -> FedAdam:
    return FedAdam(eta=section.server_lr, beta_1=section.beta_1, beta_2=section.beta_2, tau=section.tau)


@STRATEGIES.add("fedyogi")
def _fedyogi(section: Any) -> FedYogi:
    return FedYogi(eta=section.server_lr, beta_1=section.beta_1, beta_2=section.beta_2, tau=section.tau)


for _name, _factory in ROBUST.items():
    STRATEGIES.add(_name)(_factory)


@dataclass
class Aggregator:
    """A strategy with its state, for one run."""

    federation: Federation

    def __post_init__(self) -> None:
        self.strategy = STRATEGIES[self.federation.strategy.name](self.federation.strategy)

    @property
    def wants_every_reply(self) -> bool:
        """Whether the strategy sees each reply, not their mean alone."""
        return bool(getattr(self.strategy, "wants_every_reply", False))

    def open(self, current: Weights) -> Fold:
        """Return what takes in the replies of sites that start from ``current``, one by one as they come."""
        return Fold(self, current)

    def step(self, number: int, current: Weights, replies: Sequence[TrainReply]) -> Weights:
        """Return the float32 weights after round ``number``; ``replies`` come in site order and are not empty.

        All arithmetic is in float64. Longer updates than ``strategy.norm_bound`` are scaled down to it first.
        """
        fold = self.open(current)
        return fold.step(number, [fold.take(reply) for reply in replies])

    def state(self) -> dict[str, Tensor]:
        """Return what lasts from round to round (momentum, m, v) in float64; empty before the first step."""
        state: dict[str, Tensor] = {}
        for name in STATE_ATTRIBUTES:
            value = getattr(self.strategy, name, None)
            parts = value if isinstance(value, dict) else dict(enumerate(value or []))
            state |= {f"{name}/{key}": torch.from_numpy(np.asarray(part, dtype=np.float64)) for key, part in parts.items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        for name in STATE_ATTRIBUTES:
            prefix = f"{name}/"
            parts = {key.removeprefix(prefix): value.double().numpy() for key, value in state.items() if key.startswith(prefix)}
            if not parts:
                continue
            listed = name == "momentum_vector"
            setattr(self.strategy, name, [parts[str(i)] for i in range(len(parts))] if listed else parts)


class Fold:
    """The replies of one round: their running mean or, where a strategy wants each of them, all."""

    def __init__(self, aggregator: Aggregator, current: Weights) -> None:
        self._strategy, self._current = aggregator.strategy, current
        self._bound = aggregator.federation.strategy.norm_bound
        self._layout = Layout.of(current)
        self._here = self._layout.vector(current)
        self._by_size = aggregator.federation.weighting == "size" and not getattr(self._strategy, "ignores_sizes", False)
        self._running = None if aggregator.wants_every_reply else RunningMean(self._layout.size)
        self._is_mean = type(self._strategy) is FedAvg  # which would pack, unpack and return the mean

    def take(self, reply: TrainReply) -> TrainReply:
        """Take in a reply and return what is still to be held of it: its numbers, or all where a strategy wants every reply."""
        if self._running is None:
            return reply
        self._running.add(self._bounded(reply, np.float32), self._size(reply))
        return TrainReply({}, reply.metrics)

    def parts(self) -> tuple[tuple[np.ndarray, np.ndarray], float]:
        """Return two vectors that add up to the sum of what was taken in, and its weight: for :meth:`merge` of another."""
        assert self._running is not None
        return self._running.parts(), self._running.total

    def merge(self, parts: Sequence[np.ndarray], total: float) -> None:
        """Take in what :meth:`parts` of another returned."""
        assert self._running is not None
        self._running.merge(parts, total)

    def step(self, number: int, replies: Sequence[TrainReply]) -> Weights:
        """Return the float32 weights after round ``number``; replies: what :meth:`take` returned, in site order. ValueError
        without any."""
        if not replies:
            raise ValueError("a round without replies has nothing to aggregate")
        if self._running is None:
            return self._stepped(number, [(self._layout.views(self._bounded(reply)), self._size(reply)) for reply in replies])
        mean = self._running.mean()
        if self._is_mean:
            return Block(self._layout, torch.from_numpy(mean.astype(np.float32)))
        return self._stepped(number, [(self._layout.views(mean), 1.0)])

    def step_mean(self, number: int, mean: dict[str, Any]) -> Weights:
        """Return the float32 weights after round ``number`` of whose replies the ``mean`` (float64, by name) is known alone.

        UserError for a strategy that wants every reply.
        """
        if self._running is None:
            raise UserError(
                f"federation.strategy: {type(self._strategy).__name__} wants every reply, and with federation.aggregation=secure "
                "the server sees their sum alone; take fedavg, fedprox, fedavgm, fedadam or fedyogi"
            )
        return _weights(mean) if self._is_mean else self._stepped(number, [(mean, 1.0)])

    def _stepped(self, number: int, sized: list[tuple[dict[str, Any], float]]) -> Weights:
        here = self._layout.views(self._here)
        if hasattr(self._strategy, "current_arrays"):  # as Flower's ``configure_train`` would, but in float64
            listed = isinstance(self._strategy, FedAvgM)
            self._strategy.current_arrays = _record(here) if listed else here
        record, _ = self._strategy.aggregate_train(number, [_message(arrays, size) for arrays, size in sized])
        return self._current if record is None else _weights({key: record[key].numpy() for key in here})

    def _size(self, reply: TrainReply) -> float:
        return reply.examples if self._by_size else 1.0

    def _bounded(self, reply: TrainReply, kind: type[np.floating[Any]] = np.float64) -> np.ndarray:
        """Return the weights of ``reply`` as one vector, the update no longer than ``strategy.norm_bound``; float64, or of ``kind``
        where there is no such bound."""
        if self._bound is None:
            return self._layout.vector(reply.weights, kind)
        here = self._here
        update = self._layout.vector(reply.weights) - here
        norm = np.sqrt(sum(float(np.sum(part**2)) for part in self._layout.views(update).values()))
        scale = 1.0 if norm <= self._bound else self._bound / norm
        return np.asarray(here + scale * update)


def _weights(arrays: dict[str, Any]) -> Weights:
    return {key: torch.from_numpy(np.array(value, dtype=np.float32)) for key, value in arrays.items()}


def _record(arrays: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({key: Array(np.array(value, order="C")) for key, value in arrays.items()})


def _message(arrays: dict[str, Any], size: float) -> Message:
    content = RecordDict({"arrays": _record(arrays), "metrics": MetricRecord({EXAMPLES: float(size)})})
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=1.0,
        message_type="train",
    )
    return make_message(metadata=metadata, content=content)
