"""Deployed sites in a sum, without their sockets: the owner's policy, keys that end with the process, and what leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from mpssl_fed.config import Config
from mpssl_fed.deployment import wire
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.resident import LEDGER, Resident
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import SentConfig, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.secure_messages import request_name, terms_of
from mpssl_fed.federation.server.deployed_run import for_sites
from mpssl_fed.federation.site.closed import ROUNDS
from mpssl_fed.federation.site.identity import fingerprint_of, identity_key
from mpssl_fed.federation.weights import to_record
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.policy import Policy
from mpssl_fed.secure.epoch import Epoch, SignedHello, View
from mpssl_fed.secure.member import Answer
from mpssl_fed.secure.opening import open_sum
from mpssl_fed.secure.quantise import Grid
from tests.real.sites import POLICY, message, tiny, weights

SITES = 3
SECTION = "federation={sites: 3, rounds: 3, local_steps: 1, aggregation: secure, secure: {slots: 2}}"
SUM = tiny(SECTION)
PLAIN = tiny("federation={sites: 3, rounds: 3, local_steps: 1}")
OFF = {"scope": "off", "metrics": ["loss"]}
FLOOR = {"required": True, "min_sites": 3}


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [write_share(tmp_path_factory.mktemp("data") / f"images{i}", SUM, i) for i in range(SITES)]


class Sites:
    """Daemons of three owners, asked as the relay would. sum: what they are asked; says: what their policies say beside sums."""

    sum = SUM
    says: ClassVar[dict[str, Any]] = OFF

    def __init__(self, folder: Path, listings: list[Path], asks: dict[str, Any]) -> None:
        self.folder, self.listings, self.asks = folder, listings, asks
        self.daemons = {i: self.start(i) for i in range(SITES)}
        self.epoch: Epoch
        self.dealt: dict[int, dict[str, str]] = {}

    def start(self, site: int, head: Path | None = None) -> Resident:
        assert self.sum.data.task is not None
        policy = Policy.model_validate(POLICY | self.says | {"secure_aggregation": self.asks})
        data = OwnData(self.listings[site], self.sum.data.task.classes, channels=1)
        ledger = None if head is None else Ledger(self.folder / str(site) / LEDGER, head)
        if ledger is not None and ledger.files.absent:
            ledger.make()
        return Resident(site, self.folder / str(site), data, policy, ledger=ledger)

    def say(self, site: int, phase: str, body: Any = None, config: Config | None = None) -> Any:
        sent = SentConfig.of("run", config or self.sum)
        fields = {"protocol": 1, "run_id": "run", "config": sent.config_json, "sha256": sent.sha256, "phase": phase}
        return json.loads(self.daemons[site].secure(json.dumps(fields | {"body": json.dumps(body or {})}).encode()))

    def exchange(self) -> Sites:
        hellos = {site: SignedHello.load(self.say(site, "hello")) for site in self.daemons}
        self.epoch = Epoch.of(list(hellos.values()), terms_of(self.sum))
        self.places = {site: self.epoch.place(one.hello.public) for site, one in hellos.items()}
        body = {"hellos": [one.dump() for one in self.epoch.hellos]}
        self.dealt = {site: self.say(site, "join", body)["dealt"] for site in self.daemons}
        return self

    def task(self, site: int, slot: int = 0) -> str:
        here = str(self.places[site])
        inbox = {str(self.places[by]): dealt[here] for by, dealt in self.dealt.items() if by != site}
        everyone = sorted(self.places.values())
        return json.dumps({"epoch": self.epoch.id.hex(), "slot": slot, "participants": everyone, "inbox": inbox})

    def masked(self, site: int, number: int = 1, slot: int = 0, config: Config | None = None) -> np.ndarray:
        config = config or self.sum
        body = message(config, weights(config), number, run_id="run", secure=self.task(site, slot))
        arrays, metrics = wire.unpack(self.daemons[site].train(body), "metrics")
        assert json.loads(metrics) == {}
        assert set(arrays) == {"masked"}
        return arrays["masked"]

    def opening(self, number: int = 1, slot: int = 0, without: tuple[int, ...] = ()) -> dict[str, Any]:
        everyone = sorted(self.places.values())
        stayed = [place for place in everyone if place not in {self.places[site] for site in without}]
        asked = TrainRequest(
            SentConfig.of("run", for_sites(self.sum)), number, to_record(parts.initial_classifier(self.sum).shared_state())
        )
        name = request_name(asked, self.epoch.id.hex(), slot, everyone)
        view = {"slot": slot, "round": number, "participants": everyone, "survivors": stayed, "request": name}
        return {"epoch": self.epoch.id.hex(), **view, "signatures": {}}


@pytest.fixture
def sites(tmp_path: Path, listings: list[Path]) -> Any:
    """``sites(**asks)`` -> three daemons whose policies ask that of sums."""
    return lambda **asks: Sites(tmp_path, listings, FLOOR | asks)


def test_the_opened_sum_is_the_mean_of_what_plain_rounds_would_send(sites: Any, tmp_path: Path, listings: list[Path]) -> None:
    here = sites().exchange()
    masked = {here.places[site]: here.masked(site) for site in here.daemons}
    answers = {here.places[site]: Answer.load(here.say(site, "open", here.opening())) for site in here.daemons}
    view = View(0, "run", 1, (1, 2, 3), (1, 2, 3), here.opening()["request"])
    opened = open_sum(here.epoch, view, sum(masked.values(), np.zeros_like(masked[1])), answers)
    found = Grid(here.epoch.terms, SITES).mean(opened)
    assert found is not None
    plain = Sites(tmp_path / "plain", listings, {})
    sent = [
        wire.unpack(plain.daemons[site].train(message(PLAIN, weights(PLAIN), 1, run_id="run")), "metrics") for site in range(SITES)
    ]
    sizes = [json.loads(metrics)["num-examples"] for _, metrics in sent]
    start = parts.initial_classifier(SUM).shared_state()
    updates = [
        np.concatenate([(arrays[key].astype(np.float64) - start[key].double().numpy()).ravel() for key in sorted(start)])
        for arrays, _ in sent
    ]
    want = np.average(updates, axis=0, weights=sizes)
    assert found[1] == sum(sizes)
    assert np.abs(found[0] - want).max() <= here.epoch.terms.error(SITES, sum(sizes)) * 1.001 + 1e-15


def test_a_site_that_wants_sums_answers_no_plain_run_and_no_plain_round_of_one(sites: Any) -> None:
    here = sites().exchange()
    with pytest.raises(Refusal, match="secure-wanted"):
        here.daemons[0].train(message(PLAIN, weights(PLAIN), 1, run_id="other"))
    with pytest.raises(Refusal, match="plan"):
        here.daemons[0].train(message(SUM, weights(SUM), 1, run_id="run"))
    here.masked(0)
    with pytest.raises(Refusal, match="secure-wanted"):
        here.daemons[0].train(message(PLAIN, weights(PLAIN), 1, run_id="run"))
    lax = Sites(here.folder / "lax", here.listings, {"required": False})
    lax.exchange().masked(0)
    with pytest.raises(Refusal, match="plan"):  # a masked round is not told in clear afterwards
        lax.daemons[0].train(message(PLAIN, weights(PLAIN), 1, run_id="run"))


def test_the_same_request_gets_the_same_bytes_and_the_same_shares(sites: Any) -> None:
    here = sites().exchange()
    first = {site: here.masked(site) for site in here.daemons}
    assert np.array_equal(here.masked(0), first[0])
    told = here.say(0, "open", here.opening())
    assert here.say(0, "open", here.opening()) == told
    assert np.array_equal(here.masked(0), first[0])
    with pytest.raises(Refusal, match="secure-terms"):
        here.say(0, "open", here.opening(without=(2,)))
    with pytest.raises(Refusal, match="secure-closed"):
        here.masked(0, 1, slot=1)


def test_a_daemon_that_starts_anew_has_no_keys_and_masks_no_round_a_second_time(sites: Any) -> None:
    here = sites().exchange()
    for site in here.daemons:
        here.masked(site)
    here.daemons[0] = here.start(0)
    with pytest.raises(Refusal, match="secure-epoch"):
        here.masked(0)
    with pytest.raises(Refusal, match="secure-epoch"):
        here.say(0, "open", here.opening())
    here.exchange()
    with pytest.raises(Refusal, match="secure-closed"):
        here.masked(0, 1)
    assert here.masked(0, 2, slot=1).size


def test_no_key_of_a_deployed_site_but_its_identity_is_ever_on_disk(sites: Any) -> None:
    here = sites().exchange()
    here.masked(0)
    here.say(0, "open", here.opening())
    member = here.daemons[0]._in_memory.member("run")
    assert member is not None
    written = b"".join(file.read_bytes() for file in (here.folder / "0").rglob("*") if file.is_file())
    assert member.box is None  # once its shares are here nothing is sealed or unsealed with it
    secrets = [one for slot in member.slots for one in (slot.secret, slot.seed) if one]
    assert len(secrets) == 2  # one slot is left
    assert not any(secret in written or secret.hex().encode() in written for secret in secrets)


def test_peers_are_summed_with_peers_alone_and_open_on_their_signatures(sites: Any, tmp_path: Path) -> None:
    own = [fingerprint_of(identity_key(_made(tmp_path / str(site)))) for site in range(SITES)]
    here = sites(peers=own).exchange()
    assert here.epoch.terms.signed
    for site in here.daemons:
        here.masked(site)
    opening = here.opening()
    with pytest.raises(Refusal, match="secure-terms"):
        here.say(0, "open", opening)
    opening["signatures"] = {str(here.places[site]): here.say(site, "sign", opening)["signature"] for site in here.daemons}
    assert set(here.say(0, "open", opening)["seeds"]) == {"1", "2", "3"}
    stranger = Sites(tmp_path / "strangers", here.listings, FLOOR)
    hellos = [here.say(0, "hello"), stranger.say(1, "hello"), stranger.say(2, "hello")]
    with pytest.raises(Refusal, match="secure-terms"):
        here.say(0, "join", {"hellos": hellos})
    status = here.daemons[0].status()["secure_aggregation"]
    assert status["fingerprint"] == own[0]
    assert "active server" in status["against"]


def test_a_stricter_site_raises_the_terms_of_all_before_anything_is_masked(sites: Any) -> None:
    here = sites()
    strict = here.daemons[2]
    assert strict.policy is not None
    asks = strict.policy.secure_aggregation.model_copy(update={"min_sites": 4})
    strict.policy = strict.policy.model_copy(update={"secure_aggregation": asks})
    hellos = [here.say(site, "hello") for site in here.daemons]
    for site in here.daemons:
        with pytest.raises(Refusal, match="secure-terms"):  # three sites cannot be four
            here.say(site, "join", {"hellos": hellos})


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"phase": "hello"}'])
def test_what_is_no_message_is_malformed(body: bytes, sites: Any) -> None:
    with pytest.raises(Refusal, match="malformed"):
        sites().daemons[0].secure(body)


def test_bodies_of_any_making_are_refused_by_a_code(sites: Any) -> None:
    here = sites().exchange()
    for site in here.daemons:
        here.masked(site)
    good = here.opening()
    bad: list[tuple[str, Any]] = [
        ("seal", {}),
        ("hello", {"a": 1}),
        ("join", {"hellos": []}),
        ("join", {"hellos": [{"text": "{}", "signature": ""}] * 3}),
        ("join", {"hellos": [{"text": "[" * 60_000, "signature": "00"}]}),
        *(("open", good | {key: value}) for key, value in (("slot", 99), ("slot", -1), ("round", 0), ("epoch", "00"))),
        *(("open", good | {"signatures": {key: value}}) for key, value in (("x", "00"), ("1", "zz"))),
        *(("open", good | {"survivors": value}) for value in ([], [1], [1, 1, 2], [3, 2, 1], [1, 2, 9], [1.5], ["1"], [2**70])),
        ("sign", good | {"participants": [1, 2]}),
    ]
    for phase, body in bad:
        with pytest.raises(Refusal) as refused:
            here.say(0, phase, body)
        assert refused.value.code in {"malformed", "secure-terms", "secure-epoch", "secure-closed"}, (phase, body)
    assert "site-failed" not in here.daemons[0].refused
    assert here.say(0, "open", good)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_a_config_that_is_not_of_sums_is_no_message_about_one(sites: Any) -> None:
    lax = sites(required=False)
    with pytest.raises(Refusal, match="plan"):
        lax.say(0, "hello", config=PLAIN)
    changed = SUM.model_copy(update={"federation": replace_secure(SUM, range=8.0)})
    lax.exchange()
    with pytest.raises(Refusal, match="secure-terms"):
        lax.say(0, "open", lax.opening(), config=changed)


def replace_secure(config: Config, **changed: Any) -> Any:
    secure = config.federation.secure.model_copy(update=changed)
    return config.federation.model_copy(update={"secure": secure})


def test_what_leaves_of_a_masked_round_passes_egress(sites: Any) -> None:
    """A vector that is no answer to what was asked does not leave, whatever made it."""
    here = sites().exchange()
    one = here.daemons[0]
    length = 1 + sum(value.size for value in weights(SUM).values())
    right = np.arange(length, dtype=np.uint64)
    arrays, metrics = wire.unpack(one._release_masked(right, length), "metrics")
    assert (list(arrays), json.loads(metrics)) == (["masked"], {})
    for wrong, why in ((right[1:], "shape"), (right.astype(np.float64), "dtype"), (right.reshape(1, -1), "shape")):
        before = one.dropped[why]
        with pytest.raises(Refusal, match="misshapen"):
            one._release_masked(wrong, length)
        assert one.dropped[why] == before + 1


def test_the_identity_is_read_once(sites: Any) -> None:
    here = sites().exchange()
    (here.folder / "0" / "identity.key").unlink()
    here.masked(0)
    assert not (here.folder / "0" / "identity.key").exists()
    assert here.daemons[0].status()["secure_aggregation"]["fingerprint"] == fingerprint_of(here.daemons[0]._identity)


def test_closed_rounds_are_kept_with_a_head_that_lies_elsewhere(sites: Any, tmp_path: Path) -> None:
    """A daemon whose folder is put back and that starts without keys masks no round a second time."""
    here, head = sites(), tmp_path / "elsewhere.head"
    here.daemons[0] = here.start(0, head)
    here.exchange().masked(0)
    (here.folder / "0" / ROUNDS).unlink()
    here.daemons[0] = here.start(0, head)
    with pytest.raises(Refusal, match="secure-closed"):
        here.exchange().masked(0)
    assert here.masked(0, 2, slot=1).size
    head.unlink()
    with pytest.raises(Refusal, match="site-failed"):
        here.exchange().masked(0, 3)


def test_a_site_that_lists_peers_takes_no_part_in_a_graph_of_few_neighbours(sites: Any) -> None:
    config = SUM.model_copy(update={"federation": replace_secure(SUM, neighbours="few")})
    assert sites().say(0, "hello", config=config)
    with pytest.raises(Refusal, match="secure-terms"):
        sites(peers=[digit * 64 for digit in "012"]).say(0, "hello", config=config)
