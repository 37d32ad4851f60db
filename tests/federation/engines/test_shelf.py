"""What a worker hands over by shared memory: whole, in memory of its own, and by the pipe where it does not fit."""

from __future__ import annotations

import mmap
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mpssl_fed.federation.engines import shelf as module
from mpssl_fed.federation.engines.shelf import LARGE, Shelf
from mpssl_fed.models import Block


def block(value: float) -> Block:
    return Block.of({"body.weight": torch.full((3, 5), value), "head.bias": torch.arange(7.0) + value})


def by_fork(work: Callable[[], object]) -> None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0


def test_another_process_takes_what_was_put() -> None:
    shelf = Shelf(2)
    ours, theirs = multiprocessing.Pipe()
    by_fork(lambda: theirs.send(shelf.put({"reply": block(0.5), "loss": 0.25})))
    parcel = ours.recv()
    assert len(parcel[0]) < 1000, "the pipe carries no weights"
    taken = shelf.take(parcel)
    assert taken["loss"] == 0.25
    assert taken["reply"].layout == block(0.5).layout
    for name, value in block(0.5).items():
        assert torch.equal(taken["reply"][name], value)


def test_what_was_taken_stays_when_its_place_is_used_again() -> None:
    shelf = Shelf(2)
    first = shelf.take(shelf.put(block(1)))
    again = [shelf.put(block(value)) for value in (2, 3)]
    assert torch.equal(first.flat, block(1).flat)
    assert [shelf.take(parcel)["head.bias"][0].item() for parcel in again] == [2, 3]
    first.flat.zero_()  # the receiver's own
    assert shelf.take(again[0])["head.bias"][0] == 2


def test_what_nobody_took_is_not_written_over() -> None:
    """A server that is slow: what finds no place goes through the pipe."""
    shelf = Shelf(2)
    parcels = [shelf.put(block(value)) for value in range(5)]
    assert [bool(sizes) for *_, sizes in parcels] == [True, True, False, False, False]
    assert [shelf.take(parcel)["head.bias"][0].item() for parcel in parcels] == [0, 1, 2, 3, 4]
    assert shelf.put(block(5))[2], "and then a place is free again"


def test_what_has_no_arrays_or_too_large_ones_goes_through_the_pipe() -> None:
    shelf = Shelf(1)
    assert shelf.put("late")[2] == []
    assert shelf.take(shelf.put("late")) == "late"
    small = Shelf(2, 64)
    values = np.arange(100.0)
    data, _, sizes = small.put(values)
    assert not sizes
    assert len(data) > values.nbytes
    assert np.array_equal(small.take((data, 0, sizes)), values)


@pytest.mark.parametrize("what", [bytes(2 * LARGE), {"record": bytes(2 * LARGE), "array": np.arange(100.0)}])
def test_a_pickle_that_a_pipe_would_not_hold_is_laid_down_too(what: Any) -> None:
    shelf = Shelf(1)
    parcel = shelf.put(what)
    assert parcel[0] == b""
    assert pickle.dumps(shelf.take(parcel)) == pickle.dumps(what)


def test_a_machine_that_promises_no_memory_is_served_by_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module.mmap, "mmap", refuse)
    shelf = Shelf(2)
    assert torch.equal(shelf.take(shelf.put(block(4))).flat, block(4).flat)
