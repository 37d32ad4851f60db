"""A reply that is handed over in one process ends in the bits of a packed one, and is checked as that is."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from safetensors.torch import load_file

from clients.app import app
from mpssl_fed.federation.messages import Handed, TrainReply
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.models import Block
from mpssl_fed.runs.run_directory import RunDirectory

LIKE = {"body.running_var": torch.ones(3), "head.bias": torch.zeros(2)}


def _reply(weights: Mapping[str, torch.Tensor] = LIKE, size: float = 4.0) -> TrainReply:
    return TrainReply(dict(weights), {"num-examples": size, "loss": 1.5})


def _both(reply: TrainReply) -> tuple[TrainReply, TrainReply]:
    return TrainReply.from_record(Handed(reply), LIKE), TrainReply.from_record(reply.to_record(), LIKE)


def test_a_run_ends_with_the_same_bits_as_one_that_packs(run_tiny: Callable[..., RunDirectory], tmp_path: Path) -> None:
    seen = []

    def packing(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if isinstance(reply.content, Handed):
            seen.append(reply.content)
            reply.content = RecordDict(dict(reply.content))
        return reply

    ends = [
        load_file(run_tiny("federation.rounds=2", folder=tmp_path / name, client=client).folder / "model.safetensors")
        for name, client in (("handed", app), ("packed", packing))
    ]
    assert len(seen) >= 4
    assert all(ends[0][key].equal(ends[1][key]) for key in ends[1])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"head.bias": torch.tensor([0.0, float("nan")])}, "non-finite"),
        ({"head.bias": torch.tensor([0.0, float("-inf")])}, "non-finite"),
        ({"head.bias": torch.tensor([26.0, 0.0])}, "too-large"),
        ({"body.running_var": torch.tensor([1.0, -1.0, 1.0])}, "number"),
        ({"head.bias": torch.zeros(3)}, "misshapen"),
        ({"more": torch.zeros(3)}, "misshapen"),
    ],
)
@pytest.mark.parametrize("gathered", [True, False])
def test_it_is_refused_as_a_record_of_it(change: dict[str, torch.Tensor], code: str, gathered: bool) -> None:
    weights = LIKE | change
    reply = TrainReply(Block.of(weights) if gathered else weights, {"num-examples": 4.0})
    for record in (Handed(reply), reply.to_record()):
        with pytest.raises(Refusal, match=code):
            TrainReply.from_record(record, LIKE)


def test_wider_numbers_and_a_size_that_is_none_are_refused() -> None:
    with pytest.raises(Refusal, match="misshapen"):
        TrainReply.from_record(Handed(_reply({key: value.double() for key, value in LIKE.items()})), LIKE)
    with pytest.raises(Refusal, match="size"):
        TrainReply.from_record(Handed(_reply(size=0.5)), LIKE)


def test_a_variance_beyond_the_bound_of_a_bias_passes() -> None:
    weights = LIKE | {"body.running_var": torch.full((3,), 900.0)}
    handed = TrainReply.from_record(Handed(TrainReply(Block.of(weights), {"num-examples": 4.0})), LIKE)
    assert handed.weights["body.running_var"].eq(900.0).all()


def test_whoever_looks_into_the_record_finds_it_packed_and_may_change_it() -> None:
    record = Handed(_reply())
    assert set(record) == {"arrays", "metrics"}
    assert np.array_equal(record["arrays"]["head.bias"].numpy(), np.zeros(2, np.float32))  # type: ignore[index,union-attr]
    record["metrics"] = MetricRecord({"num-examples": 9.0})
    for one in (record, pickle.loads(pickle.dumps(record))):
        assert TrainReply.from_record(one, LIKE).examples == 9.0


def test_it_goes_through_a_pipe_as_it_is() -> None:
    there = pickle.loads(pickle.dumps(Handed(TrainReply(Block.of(LIKE), {"num-examples": 4.0}))))
    assert isinstance(there, Handed)
    assert there.reply is not None
    assert isinstance(there.reply.weights, Block)
    for left, right in (_both(there.reply), _both(_reply())):
        assert all(left.weights[key].equal(right.weights[key]) for key in LIKE)
