"""Arrays packed into one on their way: the same numbers come out, and whatever else a site packs ends its own reply alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict

from mpssl_fed.federation import packed
from mpssl_fed.federation.array_bytes import Arrays, pack
from mpssl_fed.federation.engines.inprocess import InProcessGrid
from mpssl_fed.federation.messages import query
from mpssl_fed.federation.refusal import Refusal, to_error
from mpssl_fed.federation.server import deployed_grid
from mpssl_fed.federation.server.collect import pull
from mpssl_fed.federation.server.deployed_grid import SLACK, DeployedGrid

VALUES = {
    "head.bias": np.arange(3, dtype=np.float32),
    "head.weight": np.eye(3, dtype=np.float32),
    "one": np.array(2, dtype=np.float32),
}
SENT = ArrayRecord({name: Array(value) for name, value in VALUES.items()})


def same(one: Arrays) -> bool:
    return {name: (value.dtype, value.tolist()) for name, value in one.items()} == {
        name: (value.dtype, value.tolist()) for name, value in VALUES.items()
    }


def as_bytes(body: bytes) -> ArrayRecord:
    return ArrayRecord({packed.PACKED: Array("uint8", (len(body),), packed.STYPE, body)})


def exchange(
    answer: Callable[[ArrayRecord], ArrayRecord], cards: dict[int, int]
) -> tuple[dict[int, object], dict[int, ArrayRecord]]:
    """Return what a server gets from nodes 1, 2, ... that say ``cards`` and answer so, by node, and what came to each of them."""
    came: dict[int, ArrayRecord] = {}

    def node(message: Message, context: Context) -> Message:
        if message.metadata.message_type == MessageType.QUERY:
            card = {"partition-id": context.node_id, "num-partitions": 0} | ({packed.PACKED: 1} if cards[context.node_id] else {})
            return Message(RecordDict({"site": ConfigRecord(card)}), reply_to=message)
        arrays = came[context.node_id] = message.content["arrays"]
        return Message(RecordDict({"arrays": answer(arrays)}), reply_to=message)

    grid = DeployedGrid(InProcessGrid(node, [{} for _ in cards]), look_every_s=0)
    for number in grid.push_messages([Message(query(), one, MessageType.QUERY) for one in cards]):
        assert pull(grid, number) is not None
    content = RecordDict({"arrays": SENT})
    ids = list(grid.push_messages([Message(content, one, MessageType.TRAIN) for one in cards]))
    replies = {one: pull(grid, number) for one, number in zip(cards, ids, strict=True)}
    return {one: reply.content["arrays"] if isinstance(reply, Message) else reply for one, reply in replies.items()}, came


def test_a_node_is_sent_one_array_once_it_has_said_that_it_reads_it() -> None:
    got, came = exchange(
        lambda arrays: packed.whole(packed.values(arrays)) if packed.is_one(arrays) else arrays, {1: 1, 2: 0, 3: 1}
    )
    assert {one: packed.is_one(arrays) for one, arrays in came.items()} == {1: True, 2: False, 3: True}
    assert came[1] is came[3]  # Flower stores and sends what they share once
    assert all(same(packed.values(arrays)) for arrays in came.values())
    for arrays in got.values():
        assert isinstance(arrays, ArrayRecord)
        assert list(arrays) == sorted(VALUES)
        assert same(packed.values(arrays))
    assert list(SENT) == list(VALUES)  # what the server holds stays as it was


def test_a_node_whose_package_became_an_older_one_is_sent_its_arrays_one_by_one() -> None:
    came = list[object]()

    def node(message: Message, _: Context) -> Message:
        if message.metadata.message_type == MessageType.QUERY:
            card = ConfigRecord({"partition-id": 0, "num-partitions": 0, packed.PACKED: 1})
            return Message(RecordDict({"site": card}), reply_to=message)
        came.append(message.content["arrays"])
        return Message(to_error("malformed"), reply_to=message)

    grid = DeployedGrid(InProcessGrid(node, [{}]), look_every_s=0)
    for content, kind in [(query(), MessageType.QUERY), *2 * [(RecordDict({"arrays": SENT}), MessageType.TRAIN)]]:
        (number,) = grid.push_messages([Message(content, 1, kind)])
        assert pull(grid, number) is not None
    assert [packed.is_one(arrays) for arrays in came] == [True, False]


@pytest.mark.parametrize(("every_s", "looks"), [(3600.0, 0), (0.0, 3)])
def test_an_answer_is_looked_for_at_its_time(every_s: float, looks: int) -> None:
    seen = list[list[str]]()

    class Looked(InProcessGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            seen.append(list(message_ids))
            return []

    grid = DeployedGrid(Looked(lambda message, _: message, [{}]), every_s)
    (number,) = grid.push_messages([Message(query(), 1, MessageType.QUERY)])
    assert [pull(grid, number) for _ in range(3)] == [None] * 3
    assert seen == [[number]] * looks


def test_one_array_is_not_packed() -> None:
    alone = ArrayRecord({"confusion": Array(np.eye(2, dtype=np.float32))})
    assert packed.in_one(alone) is alone


BROKEN = [b"", b"1234567", pack(VALUES, "another", {}), pack(VALUES, packed.PACKED, {})[:-1], b"\xff" * 64]


@pytest.mark.parametrize("body", BROKEN)
def test_what_is_no_pack_is_malformed(body: bytes) -> None:
    got, _ = exchange(lambda _: as_bytes(body), {1: 1})
    assert isinstance(got[1], Refusal)
    assert got[1].code == "malformed"


@pytest.mark.parametrize("kind", [np.float32, np.int64])  # masked updates are whole numbers
def test_what_is_larger_than_was_sent_is_not_even_unpacked(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = {"w": np.zeros(SLACK // 16, dtype=kind)}
    got, _ = exchange(lambda _: packed.whole(fits), {1: 1})
    assert isinstance(got[1], ArrayRecord)
    monkeypatch.setattr(deployed_grid, "values", lambda _: pytest.fail("unpacked"))
    got, _ = exchange(lambda _: packed.whole(fits | {"more": np.zeros(SLACK, dtype=np.uint8)}), {1: 1})
    assert isinstance(got[1], Refusal)
    assert got[1].code == "malformed"


def test_an_array_by_that_name_is_an_array() -> None:
    record = ArrayRecord({packed.PACKED: Array(np.eye(2, dtype=np.float32))})
    assert not packed.is_one(record)
    assert packed.values(record)[packed.PACKED].tolist() == [[1, 0], [0, 1]]


def test_what_is_never_answered_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = DeployedGrid(InProcessGrid(lambda message, _: Message(RecordDict(), reply_to=message), [{}]))
    for _ in range(3):
        grid.push_messages([Message(query(), 1, MessageType.QUERY)])
    assert len(grid._looked) == len(grid._asked) == 3
    monkeypatch.setattr(deployed_grid, "FORGOTTEN_S", 0.0)
    grid.push_messages([Message(query(), 1, MessageType.QUERY)])
    assert len(grid._looked) == len(grid._asked) == 1
