"""A hostile server's requests, from the text of a message to the code that it gets; nothing is trained and nothing reserved."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord

from mpssl_fed.codes import Code
from mpssl_fed.config import Config, from_mapping
from mpssl_fed.config.leaves import leaves
from mpssl_fed.federation.messages import SentConfig, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.budget import policy_budget
from mpssl_fed.privacy.policy import Policy, Request, decide
from tests.federation.hostile_requests import HONEST, OWNER, REFUSED, SHA, TAKEN, written

POLICY = Policy.model_validate(OWNER)
ASKED = from_mapping(HONEST)


def received(changes: dict[str, Any]) -> Config:
    """Return the config that a site reads out of a message, with ``changes`` written as a hostile server would."""
    text = written(ASKED.dump(), changes)
    plan = SentConfig("run", text, hashlib.sha256(text.encode()).hexdigest())
    return TrainRequest.from_record(TrainRequest(plan, 1, ArrayRecord()).to_record()).config()


@pytest.mark.parametrize(("changes", "code"), REFUSED, ids=lambda case: str(case)[:70])
def test_a_hostile_request_gets_its_code(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(Refusal) as refused:
        policy_budget(POLICY, received(changes), tmp_path / "ledger.sqlite", 90_000, SHA)
    assert refused.value.code == code
    assert code in set(Code)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", TAKEN, ids=lambda case: str(case)[:70])
def test_what_a_server_may_do_is_taken(changes: dict[str, Any]) -> None:
    granted = decide(POLICY, Request.of(received(changes), 1.0, 90_000, SHA)).granted
    assert granted is not None
    assert (granted.public_size, granted.unit) == (1000, "image")  # the owner's, whatever is asked


def test_there_are_enough_cases() -> None:
    assert len(REFUSED) >= 100
    assert len({str(changes) for changes, _ in REFUSED}) == len(REFUSED)


def test_every_code_of_a_policy_or_a_mark_can_cross_the_wire() -> None:
    assert {leaf.mark.code for leaf in leaves(Config)} - {""} <= set(Code)


HELD_ELSEWHERE: dict[str, Any] = {
    "data.task.classes": ["dog", "cat"],
    "data.task.size": 48,
    "data.task.stored_size": 64,
    "data.task.channels": 1,
    "data.task.fit": "pad",
    "data.task.window.center": 40.0,
    "data.task.window.width": 400.0,
}
"""Options of ``site run``, which the site's data are read by -> another value."""


@pytest.mark.parametrize("leaf", list(leaves(Config)), ids=lambda leaf: leaf.key)
def test_marks_hold(leaf: Any) -> None:
    """One value beyond, whichever the key: refused by the mark's code, or taken where the mark is ``ignored``."""
    mark, key = leaf.mark, leaf.key
    asked = dict(Request.of(ASKED, 1.0, 1000, SHA).values)
    word = HELD_ELSEWHERE.get(key, "no such word")
    beyond: list[Any] = [word] if mark.low is None else [mark.low / 2 - 1, mark.high * 2, float("nan"), float("inf")]
    for value in beyond:
        pair = [0.5, value] if key == "optim.betas" else value
        codes = decide(POLICY, Request({**asked, key: pair}, 1.0, 1000, SHA)).codes
        listed = key in ("method.name", "generator.name", "privacy.scope")
        if mark.who == "ignored" or key in HELD_ELSEWHERE:
            assert codes == ()
        elif mark.who == "site" or mark.low is not None or mark.words or listed:
            assert mark.code in codes
