"""A site's part in sums between its messages: what it said stays what it says, through crashes between any two lines."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpssl_fed.config import Config
from mpssl_fed.federation.messages import EXAMPLES, SentConfig, TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.secure_messages import SecureRequest, request_name, terms_of
from mpssl_fed.federation.server.summing import _moved
from mpssl_fed.federation.site import masking
from mpssl_fed.federation.site.closed import ROUNDS, ClosedRounds
from mpssl_fed.federation.site.masking import InMemory, Keep, Masking, OnDisk
from mpssl_fed.federation.weights import to_record, usable
from mpssl_fed.secure.epoch import Epoch, SignedHello
from tests.federation.conftest import tiny_config

CONFIG = tiny_config("federation={aggregation: secure, sites: 3, rounds: 9, secure: {slots: 3}}")
START = {"a": torch.zeros(4)}


class Sites:
    """Three sites, the first of which may crash; ``trained`` counts how often it was asked to train."""

    def __init__(self, folder: Path, keep: type[Keep], config: Config = CONFIG) -> None:
        self.config = config
        self.here = [Masking(folder / str(i), OnDisk(folder / str(i)) if keep is OnDisk else InMemory()) for i in range(3)]
        for i in range(3):
            (folder / str(i)).mkdir()
        self.trained = 0
        hellos = [SignedHello.load(self.say(i, "hello", {})) for i in range(3)]
        self.epoch = Epoch.of(hellos, terms_of(config))
        self.places = [self.epoch.place(one.hello.public) for one in hellos]
        self.dealt = [self.say(i, "join", {"hellos": [one.dump() for one in hellos]})["dealt"] for i in range(3)]

    def say(self, site: int, phase: str, body: Any) -> Any:
        request = SecureRequest(SentConfig.of("run", self.config), phase, json.dumps(body))
        return json.loads(self.here[site].answer(request, self.config))

    def asked(self, number: int, slot: int) -> TrainRequest:
        inbox = {str(self.places[i]): self.dealt[i][str(self.places[0])] for i in (1, 2)}
        task = {"epoch": self.epoch.id.hex(), "slot": slot, "participants": [1, 2, 3], "inbox": inbox}
        return TrainRequest(SentConfig.of("run", self.config), number, to_record(START), json.dumps(task))

    def masked(self, number: int = 1, slot: int = 0) -> bytes:
        def train() -> TrainReply:
            self.trained += 1
            return TrainReply({"a": torch.full((4,), float(self.trained))}, {EXAMPLES: 2.0})

        return self.here[0].masked(self.asked(number, slot), self.config, train).tobytes()

    def opened(self, number: int = 1, slot: int = 0) -> Any:
        name = request_name(self.asked(number, slot), self.epoch.id.hex(), slot, [1, 2, 3])
        view = {"slot": slot, "round": number, "participants": [1, 2, 3], "survivors": [1, 2, 3], "request": name}
        return self.say(0, "open", {"epoch": self.epoch.id.hex(), **view})


@pytest.mark.parametrize("keep", [InMemory, OnDisk])
def test_a_request_gets_its_own_vector_or_none(keep: type[Keep], tmp_path: Path) -> None:
    sites = Sites(tmp_path, keep)
    first = sites.masked()
    assert sites.masked() == first
    second = sites.masked(2, 1)
    assert second != first
    with pytest.raises(Refusal, match="secure-closed"):
        sites.masked()
    assert sites.masked(2, 1) == second


@pytest.mark.parametrize("keep", [InMemory, OnDisk])
@pytest.mark.parametrize("after", ["close", "mask", "save", "unmask"])
def test_a_crash_between_any_two_steps_leads_to_no_second_vector_of_a_slot(
    keep: type[Keep], after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is sent of the round afterwards is one vector and one answer, of one training."""
    sites = Sites(tmp_path, keep)
    sent = [sites.masked()] if after == "unmask" else []
    holder = {"close": ClosedRounds, "save": keep}.get(after, masking.Member)
    real: Any = getattr(holder, after)

    def crash(*words: Any, **named: Any) -> None:
        real(*words, **named)
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(holder, after, crash)
        with pytest.raises(MemoryError):
            sites.opened() if after == "unmask" else sites.masked()
    for number, slot in ((1, 0), (1, 1), (1, 0)):
        with suppress(Refusal):
            sent.append(sites.masked(number, slot))
    assert len(set(sent)) <= 1
    assert sites.trained == 1
    if sent:
        assert sites.opened() == sites.opened()
        with pytest.raises(Refusal, match="secure-closed"):
            sites.opened(1, 1)


def test_a_folder_that_is_put_back_opens_no_round_anew_where_the_head_lies_elsewhere(tmp_path: Path) -> None:
    """A backup of the site's folder, and a start without keys: on one disk alone a round would be masked again."""
    head = tmp_path / "elsewhere" / "ledger.head"
    head.parent.mkdir()
    head.write_text("the ledger's\n")
    here, alone = ClosedRounds(tmp_path / "site", head), ClosedRounds(tmp_path / "site")
    here.close("run", 1)
    backup = (here.folder / ROUNDS).read_bytes()
    here.close("run", 2)
    here.close("other", 7)
    here.close("run", 2)
    (here.folder / ROUNDS).write_bytes(backup)
    assert [(one.last("run"), one.last("other"), one.last("ru")) for one in (here, alone)] == [(2, 7, 0), (1, 0, 0)]
    beside = head.with_name("ledger.head.rounds")
    with open(beside, "ab") as file:
        file.write(b"run 1")  # of run 12, cut short as it was written
    here.close("run", 12)
    assert here.last("run") == 12
    assert beside.stat().st_mode & 0o777 == 0o600
    head.unlink()
    for act in (lambda: here.last("run"), lambda: here.close("run", 13)):
        with pytest.raises(FileNotFoundError, match=r"ledger\.head"):
            act()


@pytest.mark.parametrize("size", [999, 1000, 1001, 10**9])
def test_a_site_larger_than_the_terms_weigh_is_told_apart_by_nothing(size: int, tmp_path: Path) -> None:
    config = tiny_config("federation={aggregation: secure, sites: 3, rounds: 9, max_examples: 1000, secure: {slots: 3}}")
    sites = Sites(tmp_path, InMemory, config)
    member = sites.here[0].keep.member("run")
    assert member is not None
    reply = TrainReply({"a": torch.full((4,), 0.5)}, {EXAMPLES: float(size)})
    vector = Masking._integers(sites.asked(1, 0), member, reply)
    assert int(vector[-1]) == min(size, 1000)


def test_a_variance_that_rounding_takes_below_zero_is_zero() -> None:
    """Sites refuse a negative one: the run would end at a channel that is constant."""
    start = {"bn.running_var": torch.full((2,), 1e-12), "w": torch.zeros(1)}
    mean = _moved(np.array([-1e-9, 0.5, -1.0]), start)
    assert mean["bn.running_var"].tolist() == [0.0, 0.5 + float(np.float32(1e-12))]
    assert mean["w"].tolist() == [-1.0]
    assert not usable({"bn.running_var": torch.tensor([-1e-9])})
    assert usable({"bn.running_var": torch.tensor([0.0])})
