"""Arrays are checked before they are used, on both sides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import SentConfig, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.client import answer_request
from mpssl_fed.federation.site.site import Site
from mpssl_fed.federation.weights import digest, from_record, to_record
from tests.federation.conftest import tiny_config

LIKE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(())}


def test_round_trip_is_exact() -> None:
    record = to_record(LIKE)
    back = from_record(record, LIKE)
    assert list(record) == ["a", "b"]
    assert all(torch.equal(back[key], LIKE[key]) for key in LIKE)
    assert digest(back) == digest(LIKE) == digest(dict(reversed(LIKE.items())))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 1, 5), (2, 3, 4, 5)])
def test_arrays_are_what_flower_would_make_and_read(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).transpose(0, -1) if shape else torch.tensor(0.5)
    ours, flowers = to_record({"a": tensor})["a"], Array(np.array(tensor.numpy(), order="C"))
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (flowers.dtype, flowers.shape, flowers.stype, flowers.data)
    assert torch.equal(from_record(ArrayRecord({"a": flowers}), {"a": tensor})["a"], tensor)


def _with(key: str, value: np.ndarray) -> ArrayRecord:
    record = to_record(LIKE)
    record[key] = Array(value)
    return record


def _lying() -> ArrayRecord:
    record = to_record(LIKE)
    big = Array(np.zeros((2, 3000), np.float32))
    record["a"] = Array(dtype="float32", shape=(2, 3), stype=big.stype, data=big.data)
    return record


def _garbage() -> ArrayRecord:
    record = to_record(LIKE)
    record["a"] = Array(dtype="float32", shape=(2, 3), stype="numpy.ndarray", data=b"not numpy")
    return record


def _pickled() -> ArrayRecord:
    record = to_record(LIKE)
    record["a"] = Array(dtype="float32", shape=(2, 3), stype="pickle", data=b"\x80")
    return record


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: _with("a", np.zeros((3, 2), np.float32)), "misshapen"),
        (lambda: _with("a", np.zeros((2, 3), np.float64)), "misshapen"),
        (lambda: _with("c", np.zeros((2, 3), np.float32)), "misshapen"),
        (lambda: _with("a", np.full((2, 3), np.nan, np.float32)), "non-finite"),
        (lambda: _with("b", np.array(np.inf, np.float32)), "non-finite"),
        (ArrayRecord, "misshapen"),
        (_lying, "misshapen"),
        (_garbage, "malformed"),
        (_pickled, "misshapen"),
    ],
)
def test_refused(make: Callable[[], ArrayRecord], code: str) -> None:
    with pytest.raises(Refusal) as refusal:
        from_record(make(), LIKE)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("head.bias", 24.9, True),
        ("head.bias", -25.1, False),
        ("head.bias", 55.0, False),  # one class is certain, whatever the image
        ("head.weight", 999.0, True),
        ("body.conv1.weight", -1001.0, False),
        ("body.norm1.bias", 1e19, False),  # its square is no float32
        ("body.bn1.running_var", 9e5, True),
        ("body.bn1.running_var", 1.1e6, False),
        ("body.bn1.running_mean", 1001.0, False),
    ],
)
def test_no_entry_is_beyond_what_training_ends_at(key: str, value: float, taken: bool) -> None:
    """The same on both sides: a server's message and a site's reply are read by one function."""
    like = {key: torch.zeros(3)}
    sent = to_record({key: torch.tensor([0.0, 0.0, value])})
    if taken:
        assert from_record(sent, like)[key][2] == torch.tensor(value)
    else:
        with pytest.raises(Refusal, match="too-large"):
            from_record(sent, like)


def test_a_site_keeps_an_update_that_nobody_would_take(tmp_path: Path) -> None:
    """Steps far too long end in numbers that are finite and useless; the site itself says so and stores no reply."""
    config = tiny_config("optim={name: sgd, lr: 1.0e+4, schedule: constant, warmup_steps: 0}")
    start = to_record(parts.initial_classifier(config).shared_state())
    with pytest.raises(Refusal, match="too-large"):
        answer_request(Site(0, tmp_path), TrainRequest(SentConfig.of("run", config), 1, start))
    assert not list(tmp_path.iterdir())


def test_digest_sees_names_shapes_and_bits() -> None:
    def one(values: Tensor) -> str:
        return digest({"a": values})

    zero = torch.zeros(4)
    assert len({one(zero), one(zero.reshape(2, 2)), one(-zero), digest({"b": zero}), one(torch.zeros(3))}) == 5
