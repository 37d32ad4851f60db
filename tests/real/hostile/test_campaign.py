"""The campaign against a real daemon, over its socket: refused by code and unpaid, or taken, paid and no more than noise."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mpssl_fed.config import from_json
from mpssl_fed.privacy.ledger import Ledger
from tests.real.hostile.attack import Attack, accepted, charged, randomly, refusals
from tests.real.hostile.harmless import check
from tests.real.hostile.messages import ALIKE
from tests.real.hostile.target import PIXELS, Target, ask, body, config_of, generous, guarded, honest_text, start, unprotected
from tests.real.sites import equal, weights

TEXT = honest_text()
ARRAYS = weights(from_json(TEXT))
REFUSALS, ACCEPTED = dict(refusals(ARRAYS)), dict(accepted())
Start = Callable[[str, dict[str, Any]], Target]


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a daemon under a policy, once for all cases."""
    up: dict[str, Target] = {}

    def target(name: str, policy: dict[str, Any]) -> Target:
        if name not in up:
            up[name] = Target(tmp_path_factory.mktemp(name), policy)
        return up[name]

    yield target
    for one in up.values():
        one.site.stop()


@pytest.fixture(scope="module")
def strict(begin: Start) -> Target:
    return begin("guarded", guarded())


@pytest.fixture(scope="module")
def lenient(begin: Start) -> Target:
    return begin("generous", generous())


@pytest.mark.parametrize("attack", REFUSALS.values(), ids=REFUSALS.keys())
def test_is_refused_by_its_code(strict: Target, attack: Attack) -> None:
    attack(strict)


def test_nothing_was_paid_for_refusals_and_the_next_round_is_served(strict: Target) -> None:
    assert not (strict.site.state / "ledger.sqlite").exists()
    strict.no_trace()
    config = from_json(TEXT)
    with strict.spends(charged(strict, config, 1, True)):
        first = strict.post(ALIKE["the same"](body(TEXT, ARRAYS, "run1")))
    check(strict, config, ARRAYS, first)
    with strict.spends({}):
        for edit in ALIKE.values():
            assert equal(strict.post(edit(body(TEXT, ARRAYS, "run1"))).arrays, first.arrays)
    assert strict.site.status()["refused"].keys() <= strict.tally.keys()


def test_peers_that_hang_flood_or_break_off_keep_nobody_out(strict: Target) -> None:
    """The test is the owner, whose connections are not counted; those of other users are in test_isolation."""
    sent = [
        b"",
        b"P",
        b"POST /v1/train HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
        b"POST /v1/train HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
    ]
    held = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    try:
        for number, peer in enumerate(held):
            peer.connect(str(strict.site.socket))
            peer.sendall(sent[number % 2])
        assert strict.site.up()
        assert strict.post(body(TEXT, ARRAYS, "run1")).taken
    finally:
        for peer in held:
            peer.close()
    for number in range(200):  # each goes before it is answered
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(strict.site.socket))
            peer.sendall(sent[number % 4])
    assert strict.post(body(TEXT, ARRAYS, "run1")).taken


@pytest.mark.parametrize("attack", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_is_paid_for_and_no_more_than_noise(lenient: Target, attack: Attack) -> None:
    attack(lenient)


def test_random_mutations(lenient: Target) -> None:
    randomly(lenient, 7, 60)
    lenient.no_trace()


@pytest.mark.slow
def test_a_thousand_random_mutations(begin: Start) -> None:
    target = begin("thousand", generous())
    randomly(target, 11, 1000)
    target.no_trace()
    assert _serves(target)


def test_the_ledger_is_whole_and_the_next_round_is_served(lenient: Target) -> None:
    assert Ledger(lenient.site.state / "ledger.sqlite").verify() > 50
    lenient.no_trace()
    assert _serves(lenient)


def _serves(target: Target) -> bool:
    config, _ = config_of({})
    with target.spends(charged(target, config, 1, True)):
        answer = target.post(ask("the.end"))
    check(target, config, start({}), answer)
    return answer.taken


OFF = {"privacy": {"scope": "off"}}


def test_without_privacy_nothing_leaves_but_weights_and_listed_numbers(begin: Start) -> None:
    """The owner asked for none: then no request ends to end is taken any more, and BatchNorm's variances stay variances."""
    target = begin("unprotected", unprotected())
    bare = {**PIXELS, **OFF}
    _, text = config_of({}, bare)
    arrays = start({}, bare)
    answer = target.post(body(text, arrays, "bare"))
    assert set(answer.metrics) == {"num-examples", "loss"}
    assert answer.metrics["num-examples"] == len(target.images)
    assert target.post(ask("private")).code == "budget"
    normed = {"model.name": "small-cnn", "model.norm": "batch"}
    config, text = config_of(normed, bare)
    honest = weights(config)
    variances = [key for key in honest if key.endswith("running_var")]
    for value, code in ((-1.0, "number"), (-1e-45, "number"), (np.nan, "non-finite"), (1.1e6, "too-large")):
        crafted = honest | {key: np.full_like(honest[key], value) for key in variances[:1]}
        assert target.post(body(text, crafted, "normed")).code == code
    for value in (0.0, 1e-45, 9.9e5):
        crafted = honest | {key: np.full_like(honest[key], value) for key in variances}
        answer = target.post(body(text, crafted, f"normed{value}".replace("-", "_")))
        assert answer.code in ("", "too-large", "non-finite")
    assert Ledger(target.site.state / "ledger.sqlite").verify() > 0
    target.no_trace()
