"""Arrays are checked before they are used, on both sides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.weights import digest, from_record, to_record

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


def test_digest_sees_names_shapes_and_bits() -> None:
    def one(values: Tensor) -> str:
        return digest({"a": values})

    zero = torch.zeros(4)
    assert len({one(zero), one(zero.reshape(2, 2)), one(-zero), digest({"b": zero}), one(torch.zeros(3))}) == 5
