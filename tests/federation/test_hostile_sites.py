"""One hostile site of three: whatever it answers is left out by a code, and the run is that of the other two."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from clients.app import app
from mpssl_fed.config.federation import MOST_SITES
from mpssl_fed.errors import UserError
from mpssl_fed.federation.engines.inprocess import InProcessGrid
from mpssl_fed.federation.messages import LARGEST_SITE, SiteCard
from mpssl_fed.federation.server import collect
from mpssl_fed.federation.server.collect import Roster
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.run_directory import RunDirectory
from tests.federation.hostile_replies import CASES, LIE

Runner = Callable[..., RunDirectory]
TINY = ("federation.local_steps=1", "data.test_limit=20", "data.labels_per_class=1", f"federation.rounds={len(CASES)}")


def _second(answer: Callable[[Message, int], Any]) -> Callable[[Message, Context], Any]:
    """Return the real ClientApp, in which ``answer`` (honest reply, round) speaks for site 1."""

    def call(message: Message, context: Context) -> Any:
        reply = app(message, context)
        if message.metadata.message_type != "train" or context.node_config["partition-id"] != 1:
            return reply
        return answer(reply, int(message.content["config"]["round"]))  # type: ignore[arg-type]

    return call


def _gone(_reply: Message, _number: int) -> Any:
    raise RuntimeError("down")


def test_no_reply_ends_or_bends_a_run(run_tiny: Runner, tmp_path: Any) -> None:
    """A case a round; the same run in which the site is down instead ends in the same bits."""
    assert len(CASES) >= 60
    hostile = run_tiny(*TINY, client=_second(lambda reply, number: CASES[number - 1][1](reply)), folder=tmp_path / "hostile")
    _, *records = read_history(hostile.folder)
    found = [(name, record.rejected, record.answered) for (name, _, _), record in zip(CASES, records, strict=True)]
    assert found == [(name, {code: 1}, 2) for name, _, code in CASES]
    assert read_manifest(hostile.folder)["status"] == "finished"
    without = run_tiny(*TINY, client=_second(_gone), folder=tmp_path / "without")
    ours, theirs = hostile.checkpoint(), without.checkpoint()
    assert ours is not None
    assert theirs is not None
    assert all(torch.equal(ours.weights[key], theirs.weights[key]) for key in theirs.weights)
    assert [r.train_loss for r in records] == [r.train_loss for r in read_history(without.folder)[1:]]
    json.dumps([record.to_json() for record in records], allow_nan=False)


def test_a_reply_that_cannot_be_unpacked_takes_no_other_with_it(run_tiny: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Flower's own grid does, which unpacks what a node sent while replies are pulled."""
    pull = InProcessGrid.pull_messages

    def unpacking(self: InProcessGrid, ids: Iterable[str]) -> Iterable[Message]:
        replies = list(pull(self, ids))
        if any(reply.has_content() and isinstance(reply.content.get("poison"), ConfigRecord) for reply in replies):
            raise ValueError("`MetricRecord` objects do not have children.")
        return replies

    def poison(reply: Message, _number: int) -> Message:
        reply.content = RecordDict({"poison": ConfigRecord()})
        return reply

    monkeypatch.setattr(InProcessGrid, "pull_messages", unpacking)
    run = run_tiny("federation.rounds=1", client=_second(poison))
    record = read_history(run.folder)[1]
    assert (record.answered, record.rejected, record.missing) == (2, {"malformed": 1}, 0)


def test_a_momentum_that_lies_have_pumped_up_does_not_lock_the_sites_out(run_tiny: Runner) -> None:
    """Two liars of three, each within the bound of a weight: what comes out of FedAvgM is beyond what any site takes."""

    def call(message: Message, context: Context) -> Message:
        reply = app(message, context)
        lies = (
            message.metadata.message_type == "train"
            and context.node_config["partition-id"]
            and message.content["config"]["round"] != 4
        )
        return LIE(reply) if lies else reply

    options = ("federation.rounds=4", "federation.strategy={name: fedavgm, server_lr: 3.0}", "federation.local_steps=1")
    records = read_history(run_tiny(*options, client=call).folder)[1:]
    assert any(record.failed for record in records[:3])
    assert (records[3].answered, records[3].rejected) == (3, {})


class Hall(InProcessGrid):
    """Nodes that say they are the sites of ``claims``; only those in ``online`` are there, and those in ``silent`` say nothing."""

    def __init__(self, claims: Mapping[int, Any], online: Iterable[int]) -> None:
        super().__init__(self._card, [{} for _ in range(max(claims))])
        self.claims, self.online, self.silent, self.queries = claims, list(online), set[int](), list[int]()

    def _card(self, message: Message, context: Context) -> Message:
        self.queries.append(context.node_id)
        claim = self.claims[context.node_id]
        return Message(SiteCard(claim, 0).to_record() if isinstance(claim, int) else claim, reply_to=message)

    def get_node_ids(self) -> Iterable[int]:
        return self.online

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        for number, message in zip(ids, messages, strict=True):
            if message.metadata.dst_node_id in self.silent:
                del self._waiting[number]
        return ids


def test_a_later_claim_displaces_nobody() -> None:
    notes = list[str]()
    hall = Hall({1: 7, 2: 0, 3: 0, 4: 1}, [2, 4])
    roster = Roster(hall, notes.append)
    assert roster.join(2, 2, 5) == {0: 2, 1: 4}
    hall.online = [1, 2, 3, 4]
    assert roster.sites(5) == {0: 2, 1: 4, 7: 1}
    assert roster.sites(5) == {0: 2, 1: 4, 7: 1}
    assert roster.pretenders == 1
    (note,) = notes  # once, however often it is looked at
    assert "node 3 says it is site 0, as node 2 did before" in note
    assert hall.queries == [2, 4, 1, 3]


def test_a_number_is_free_while_its_holder_is_away_and_goes_back_to_it() -> None:
    hall = Hall({1: 1, 2: 0, 3: 0}, [1, 2])
    roster = Roster(hall, list[str]().append)
    assert roster.join(2, 2, 5) == {0: 2, 1: 1}
    hall.online = [1, 3]  # restarted under another id; or a pretender who waited for this
    assert roster.sites(5) == {0: 3, 1: 1}
    hall.online = [1, 3, 2]
    assert roster.sites(5) == {0: 2, 1: 1}
    assert roster.pretenders == 1


def test_claims_of_one_moment_do_not_depend_on_who_is_fastest() -> None:
    hall = Hall({1: 1, 5: 0, 3: 0, 2: 2, 4: 3}, [5, 1, 3])
    assert Roster(hall, list[str]().append).join(2, 2, 5) == {0: 3, 1: 1}


CARDS: list[tuple[str, RecordDict]] = [
    *((f"site {value!r:.20}", RecordDict({"site": ConfigRecord({"partition-id": value, "num-partitions": 0})}))
      for value in (-1, LARGEST_SITE + 1, 10**30, 0.5, float("nan"), "0", True, [0], b"0")),
    *((f"sites {value!r:.20}", RecordDict({"site": ConfigRecord({"partition-id": 2, "num-partitions": value})}))
      for value in (-1, MOST_SITES + 1, 10**30, 3.0, "3", [3])),
    ("nothing", RecordDict()),
    ("no number", RecordDict({"site": ConfigRecord({"num-partitions": 0})})),
    ("thousands of keys", RecordDict({"site": ConfigRecord({f"k{i}": i for i in range(5000)})})),
]  # fmt: skip


@pytest.mark.parametrize("card", [card for _, card in CARDS], ids=[name for name, _ in CARDS])
def test_a_card_that_is_none_is_no_site_and_ends_nothing(card: RecordDict) -> None:
    hall = Hall({1: 0, 2: card, 3: 1}, [1, 2, 3])
    roster = Roster(hall, list[str]().append)
    assert roster.join(2, 2, 5) == {0: 1, 1: 3}
    assert roster.sites(5) == {0: 1, 1: 3}
    assert set(roster.refused) <= {"number", "malformed"}
    assert roster.refused


def test_nobody_makes_a_deployment_a_simulation_of_many() -> None:
    big = RecordDict({"site": ConfigRecord({"partition-id": 2, "num-partitions": MOST_SITES})})
    roster = Roster(Hall({1: 0, 2: big, 3: 1}, [1, 2, 3]), list[str]().append)
    assert roster.join(3, 2, 5) == {0: 1, 1: 3, 2: 2}
    assert roster.simulated == 0


def test_a_silent_node_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, sleep = list[float](), collect.time.sleep
    monkeypatch.setattr(collect.time, "sleep", lambda seconds: (slept.append(seconds), sleep(seconds)))
    hall = Hall({1: 0, 2: 1, 3: 2, 4: 3}, [1, 2, 3])
    hall.silent = {2, 4}
    roster = Roster(hall, list[str]().append)
    assert roster.join(2, 2, 5) == {0: 1, 2: 3}  # as many as are expected are there: no reason to wait for more
    assert not slept
    hall.online = [1, 2, 3, 4]
    assert roster.sites(0.05) == {0: 1, 2: 3}
    assert slept
    slept.clear()
    assert roster.sites(60) == {0: 1, 2: 3}
    assert not slept


def test_too_few_sites_are_said_with_what_was_refused() -> None:
    hall = Hall({1: 0, 2: CARDS[0][1]}, [1, 2])
    with pytest.raises(UserError, match=r"1 of at least 2 sites joined within .*refused: \{'number': \d+\}"):
        Roster(hall, list[str]().append).join(2, 2, 0.3)
