"""A site's part in sums between its messages: what it said stays what it says, through crashes between any two lines."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpssl_fed.federation.messages import EXAMPLES, SentConfig, TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.secure_messages import SecureRequest, request_name, terms_of
from mpssl_fed.federation.server.summing import _moved
from mpssl_fed.federation.site import masking
from mpssl_fed.federation.site.masking import InMemory, Keep, Masking, OnDisk
from mpssl_fed.federation.weights import to_record, usable
from mpssl_fed.secure.epoch import Epoch, SignedHello
from tests.federation.conftest import tiny_config

CONFIG = tiny_config("federation={aggregation: secure, sites: 3, rounds: 9, secure: {slots: 3}}")
START = {"a": torch.zeros(4)}


class Sites:
    """Three sites, the first of which may crash; ``trained`` counts how often it was asked to train."""

    def __init__(self, folder: Path, keep: type[Keep]) -> None:
        self.here = [Masking(folder / str(i), OnDisk(folder / str(i)) if keep is OnDisk else InMemory()) for i in range(3)]
        for i in range(3):
            (folder / str(i)).mkdir()
        self.trained = 0
        hellos = [SignedHello.load(self.say(i, "hello", {})) for i in range(3)]
        self.epoch = Epoch.of(hellos, terms_of(CONFIG))
        self.places = [self.epoch.place(one.hello.public) for one in hellos]
        self.dealt = [self.say(i, "join", {"hellos": [one.dump() for one in hellos]})["dealt"] for i in range(3)]

    def say(self, site: int, phase: str, body: Any) -> Any:
        request = SecureRequest(SentConfig.of("run", CONFIG), phase, json.dumps(body))
        return json.loads(self.here[site].answer(request, CONFIG))

    def asked(self, number: int, slot: int) -> TrainRequest:
        inbox = {str(self.places[i]): self.dealt[i][str(self.places[0])] for i in (1, 2)}
        task = {"epoch": self.epoch.id.hex(), "slot": slot, "participants": [1, 2, 3], "inbox": inbox}
        return TrainRequest(SentConfig.of("run", CONFIG), number, to_record(START), json.dumps(task))

    def masked(self, number: int = 1, slot: int = 0) -> bytes:
        def train() -> TrainReply:
            self.trained += 1
            return TrainReply({"a": torch.full((4,), float(self.trained))}, {EXAMPLES: 2.0})

        return self.here[0].masked(self.asked(number, slot), CONFIG, train).tobytes()

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
    holder = {"close": Masking, "save": keep}.get(after, masking.Member)
    name = "_close" if after == "close" else after
    real: Any = getattr(holder, name)

    def crash(*words: Any, **named: Any) -> None:
        real(*words, **named)
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(holder, name, crash)
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


def test_a_variance_that_rounding_takes_below_zero_is_zero() -> None:
    """Sites refuse a negative one: the run would end at a channel that is constant."""
    start = {"bn.running_var": torch.full((2,), 1e-12), "w": torch.zeros(1)}
    mean = _moved(np.array([-1e-9, 0.5, -1.0]), start)
    assert mean["bn.running_var"].tolist() == [0.0, 0.5 + float(np.float32(1e-12))]
    assert mean["w"].tolist() == [-1.0]
    assert not usable({"bn.running_var": torch.tensor([-1e-9])})
    assert usable({"bn.running_var": torch.tensor([0.0])})
