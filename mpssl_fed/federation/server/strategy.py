"""From a round's replies to new global weights: Flower's strategy classes, fed in float64 and in site order."""

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
from mpssl_fed.federation.server.robust import ROBUST
from mpssl_fed.models import Weights
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

    def step(self, number: int, current: Weights, replies: Sequence[TrainReply]) -> Weights:
        """Return the float32 weights after round ``number``; ``replies`` come in site order and are not empty.

        All arithmetic is in float64. Longer updates than ``strategy.norm_bound`` are scaled down to it first.
        """
        if not replies:
            raise ValueError("a round without replies has nothing to aggregate")
        keys = sorted(current)
        here = {key: current[key].double().numpy() for key in keys}
        by_size = self.federation.weighting == "size" and not getattr(self.strategy, "ignores_sizes", False)
        sizes = [reply.examples if by_size else 1.0 for reply in replies]
        self._show_current(here)
        if getattr(self.strategy, "wants_every_reply", False):
            messages = [_message(self._bounded(here, reply), size) for reply, size in zip(replies, sizes, strict=True)]
        else:
            messages = [_message(self._mean(here, replies, sizes), 1.0)]
        return self._stepped(number, current, messages)

    def _stepped(self, number: int, current: Weights, messages: list[Message]) -> Weights:
        record, _ = self.strategy.aggregate_train(number, messages)
        if record is None:
            return current
        return {key: torch.from_numpy(np.array(record[key].numpy(), dtype=np.float32)) for key in sorted(current)}

    def step_mean(self, number: int, current: Weights, mean: dict[str, Any]) -> Weights:
        """Return the float32 weights after round ``number`` of whose replies the ``mean`` (float64, by name) is known alone."""
        if getattr(self.strategy, "wants_every_reply", False):
            raise UserError(
                f"federation.strategy.name={self.federation.strategy.name} wants every reply, and with "
                "federation.aggregation=secure the server sees their sum alone"
            )
        self._show_current({key: current[key].double().numpy() for key in sorted(current)})
        return self._stepped(number, current, [_message(mean, 1.0)])

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

    def _show_current(self, here: dict[str, Any]) -> None:
        """Set the weights the replies started from, as Flower's ``configure_train`` would, but in float64."""
        if hasattr(self.strategy, "current_arrays"):
            listed = isinstance(self.strategy, FedAvgM)
            self.strategy.current_arrays = _record(here) if listed else here

    def _mean(self, here: dict[str, Any], replies: Sequence[TrainReply], sizes: Sequence[float]) -> dict[str, Any]:
        total = sum(sizes)
        mean = {key: np.zeros_like(value) for key, value in here.items()}
        for reply, size in zip(replies, sizes, strict=True):
            bounded = self._bounded(here, reply)
            for key in mean:
                mean[key] += (size / total) * bounded[key]
        return mean

    def _bounded(self, here: dict[str, Any], reply: TrainReply) -> dict[str, Any]:
        there = {key: reply.weights[key].double().numpy() for key in here}
        bound = self.federation.strategy.norm_bound
        if bound is None:
            return there
        norm = np.sqrt(sum(float(np.sum((there[key] - here[key]) ** 2)) for key in here))
        scale = 1.0 if norm <= bound else bound / norm
        return {key: here[key] + scale * (there[key] - here[key]) for key in here}


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
