"""Bytes between relay and daemon: what was packed comes back; anything else is a ValueError and nothing worse."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.deployment import wire
from tests.patience import PATIENCE_S

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(3).reshape(())}
GOOD = wire.pack(ARRAYS, "request", {"round": 1})


def test_round_trip() -> None:
    arrays, text = wire.unpack(GOOD, "request")
    assert json.loads(text) == {"round": 1}
    assert {key: value.tolist() for key, value in arrays.items()} == {key: value.tolist() for key, value in ARRAYS.items()}


@pytest.mark.parametrize("body", [b"", b"1234567", GOOD[:-1], GOOD + b"x", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"])
def test_broken_bytes(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (any text)
        wire.unpack(body, "request")


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A socket before which the queue is full, so that Linux takes no other peer for now."""
    path, peers = tmp_path / "daemon", [socket.socket(socket.AF_UNIX) for _ in range(2)]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        for peer in peers:
            peer.setblocking(False)
            with suppress(BlockingIOError):
                peer.connect(str(path))
        yield path, server
    for peer in peers:
        peer.close()


def test_a_peer_waits_for_its_place_in_the_queue(crowded: tuple[Path, socket.socket]) -> None:
    path, server = crowded
    one = wire.Connection(path, timeout=PATIENCE_S)

    def accept() -> None:
        server.accept()[0].close()

    later = threading.Timer(0.3, accept)
    later.start()
    one.connect()
    later.join()
    assert one.sock.getpeername() == str(path)
    one.close()


def test_but_no_longer_than_its_patience(crowded: tuple[Path, socket.socket]) -> None:
    with pytest.raises(TimeoutError, match="its queue stayed full"):
        wire.Connection(crowded[0], timeout=0.1).connect()


def test_other_metadata_is_not_taken() -> None:
    with pytest.raises(ValueError, match="metadata"):
        wire.unpack(GOOD, "metrics")


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(GOOD) - 1), value=st.integers(0, 255), cut=st.integers(0, len(GOOD)))
def test_no_flip_or_cut_raises_anything_else(place: int, value: int, cut: int) -> None:
    flipped = GOOD[:place] + bytes([value]) + GOOD[place + 1 :]
    for body in (flipped, flipped[:cut]):
        try:
            wire.unpack(body, "request")
        except ValueError:
            continue
