"""Whole runs with secure aggregation: the weights of plain ones, through sites that fall out, crashes and exchanges of keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Message
from safetensors.torch import load_file

from clients.app import app
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import to_error
from mpssl_fed.federation.secure_messages import MESSAGE_TYPE, terms_of
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.run_directory import RunDirectory
from mpssl_fed.secure import keys
from mpssl_fed.secure.epoch import Hello, SignedHello
from tests.federation.conftest import tiny_config

Runner = Callable[..., RunDirectory]
SECURE = ("federation.aggregation=secure", "federation.sites=4", "federation.rounds=3", "federation.secure.slots=2")
PLAIN = SECURE[1:3]
DRIFT = 1e-4
"""What a few steps of training make of the last digit of a weight; an update is a hundred times larger."""


def _weights(run: RunDirectory) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in load_file(run.folder / "model.safetensors").items()}


def _falls_out(stage: str, site: int, rounds: tuple[int, ...] = (2,)) -> Callable[[Message, Context], Message]:
    """Return a client of which one site is silent at one stage (train, hello, join, sign, open) in ``rounds``."""

    def handler(message: Message, context: Context) -> Message:
        header: Any = message.content.get("config", {})
        here = context.node_config["partition-id"] == site
        if here and stage == "train" and message.metadata.message_type == "train" and header["round"] in rounds:
            return Message(to_error("busy"), reply_to=message)
        if here and message.metadata.message_type == MESSAGE_TYPE and header["phase"] == stage:
            number = json.loads(str(header["body"])).get("round")
            if number is None or number in rounds:
                return Message(to_error("busy"), reply_to=message)
        return app(message, context)

    return handler


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"])
def test_the_weights_are_those_of_a_plain_run_within_the_stated_error(strategy: str, run_tiny: Runner, tmp_path: Path) -> None:
    named = f"federation.strategy.name={strategy}"
    plain = run_tiny(*PLAIN, named, "federation.rounds=1", folder=tmp_path / "plain")
    secure = run_tiny(*SECURE, named, "federation.rounds=1", folder=tmp_path / "secure")
    bound = terms_of(secure.config).solved(4).error(4, 80)
    amplified = 1e3 if strategy in ("fedadam", "fedyogi") else 1  # they divide by sqrt(v) + tau
    for key, value in _weights(plain).items():
        spacing = np.spacing(np.abs(value)).max()  # both ends are rounded to float32
        assert np.abs(_weights(secure)[key] - value).max() <= amplified * bound + spacing
    history = read_history(secure.folder)
    assert [one.answered for one in history] == [0, 4]
    assert all(one.train_loss is None and one.generated is None for one in history)
    assert not any(one.failed for one in history)


@pytest.mark.parametrize("stage", ["train", "open", "join", "hello"])
def test_a_site_that_falls_out_at_any_stage_costs_its_own_update_at_most(stage: str, run_tiny: Runner, tmp_path: Path) -> None:
    """Beside a plain run in which the same site trains in the same rounds alone."""
    missing = {"train": (2,), "open": (), "join": (1, 2, 3), "hello": (1, 2, 3)}[stage]
    secure = run_tiny(*SECURE, client=_falls_out(stage, 1), folder=tmp_path / "secure")
    plain = run_tiny(*PLAIN, client=_falls_out("train", 1, missing), folder=tmp_path / "plain")
    assert [one.answered for one in read_history(secure.folder)] == [one.answered for one in read_history(plain.folder)]
    for key, value in _weights(plain).items():
        assert np.abs(_weights(secure)[key] - value).max() <= DRIFT


def test_fewer_than_m_answers_lose_the_round_and_the_run_goes_on_with_new_keys(run_tiny: Runner, tmp_path: Path) -> None:
    def handler(message: Message, context: Context) -> Message:
        header: Any = message.content.get("config", {})
        if context.node_config["partition-id"] in (0, 1) and message.metadata.message_type == "train" and header["round"] == 1:
            return Message(to_error("busy"), reply_to=message)
        return app(message, context)

    run = run_tiny(*SECURE, client=handler, folder=tmp_path / "run")
    history = read_history(run.folder)
    assert [one.failed for one in history] == [False, True, False, False]
    assert [one.answered for one in history] == [0, 2, 4, 4]


@pytest.mark.parametrize("stage", ["train", "open", "join"])
@pytest.mark.parametrize("site", [0, 3])
def test_interrupted_and_resumed_it_ends_with_the_same_bits_and_opens_no_second_sum(
    stage: str, site: int, run_tiny: Runner, tmp_path: Path
) -> None:
    whole = run_tiny(*SECURE, folder=tmp_path / "whole")
    opened: list[tuple[int, bytes]] = []

    def watched(message: Message, context: Context) -> Message:
        header: Any = message.content.get("config", {})
        is_train = message.metadata.message_type == "train"
        phase = "train" if is_train else header.get("phase", "")
        if phase == stage and context.node_config["partition-id"] == site and not cut:
            cut.append(1)
            raise KeyboardInterrupt
        reply = app(message, context)
        if phase == "open" and not reply.has_error():
            body = json.loads(str(header["body"]))
            opened.append((body["round"], json.dumps([body["slot"], body["survivors"], body["epoch"]]).encode()))
        return reply

    cut: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run_tiny(*SECURE, client=watched, folder=tmp_path / "cut")
    assert cut
    resumed = run_tiny(*SECURE, client=watched, folder=tmp_path / "cut", resume=True)
    for key, value in _weights(whole).items():
        assert np.array_equal(_weights(resumed)[key], value)
    for number in (1, 2, 3):
        assert len({view for round_, view in opened if round_ == number}) == 1
    assert read_manifest(resumed.folder)["status"] == "finished"


def test_not_all_sites_need_be_asked_and_the_others_help_to_open(run_tiny: Runner, tmp_path: Path) -> None:
    asked = ("federation.fraction=0.75", "federation.secure.min_sites=2")
    secure = run_tiny(*SECURE, *asked, folder=tmp_path / "secure")
    plain = run_tiny(*PLAIN, asked[0], folder=tmp_path / "plain")
    assert [one.answered for one in read_history(secure.folder)] == [0, 3, 3, 3]
    for key, value in _weights(plain).items():
        assert np.abs(_weights(secure)[key] - value).max() <= DRIFT


def test_a_private_run_charges_the_same_and_ends_alike(run_tiny: Runner, tmp_path: Path) -> None:
    private = ("privacy={epsilon: 8.0, public_size: 20, delta: 0.001, sample_rate: 0.2, noise: fast}", "model.norm=group")
    ends = [run_tiny(*words, *private, folder=tmp_path / str(len(words))) for words in (SECURE, PLAIN)]
    spent = [read_manifest(run.folder)["result"]["sites_answered"] for run in ends]
    assert spent == [4, 4]
    assert all((run.sites / "0" / "ledger.sqlite").is_file() for run in ends)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("federation.strategy.name=krum", "sees their sum alone"),
        ("federation.strategy.norm_bound=1", "does not see"),
        ("federation.sites=60", "want secure.min_sites=3 to 50, or secure.neighbours=few for up to 1000"),
        ("federation.secure.min_sites=5", "want secure.min_sites=5 to 50"),
        ("federation.secure.colluding=2", "hides nobody; want at least 4"),
        ("federation.secure.threshold=2", "want 3 to 4, or 0"),
        ("federation.evaluate_at_sites.times=1", "would leave it in clear"),
    ],
)
def test_what_a_server_that_sees_a_sum_alone_cannot_do_is_refused(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        tiny_config(*SECURE, *(("federation.sites=7",) if "krum" in word else ()), word)


def test_sites_that_are_not_asked_hold_shares_too_where_those_asked_are_too_few_to_open(run_tiny: Runner, tmp_path: Path) -> None:
    """Two of six are to be asked, three are since a sum wants them, four open."""
    words = ("federation.sites=6", "federation.fraction=0.3", "federation.rounds=2", "federation.local_steps=1")
    run = run_tiny(*SECURE, *words, folder=tmp_path / "run")
    assert not any(one.failed for one in read_history(run.folder))


def test_shares_are_sent_to_a_site_until_it_has_answered_with_them(run_tiny: Runner, tmp_path: Path) -> None:
    """Once an exchange of keys, that is: they are as large as the fleet, and a site drops the key of them as it masks. The one that
    is silent in round 1 opens nothing of it either, and gets them again with round 2."""
    sent: list[tuple[int, str, int]] = []
    silent = _falls_out("train", 1, (1,))

    def watched(message: Message, context: Context) -> Message:
        header: Any = message.content.get("config", {})
        is_train = message.metadata.message_type == "train"
        if is_train or header.get("phase") == "open":
            body = json.loads(str(header["secure" if is_train else "body"]))
            if body["inbox"]:
                number = header["round"] if is_train else body["round"]
                sent.append((number, "train" if is_train else "open", int(str(context.node_config["partition-id"]))))
        return silent(message, context)

    run = run_tiny(*SECURE, "federation.local_steps=1", client=watched, folder=tmp_path / "run")
    assert [(one.answered, one.failed) for one in read_history(run.folder)[1:]] == [(3, False), (4, False), (4, False)]
    every = [(1, "train", site) for site in range(4)]
    assert sorted(sent) == sorted([*every, (1, "open", 1), (2, "train", 1), *((3, "train", site) for site in range(4))])


def _hostile(sites: Mapping[int, tuple[str, Callable[[Any], Any]]], others: Any = app) -> Callable[[Message, Context], Message]:
    """Return a client whose ``sites`` answer a phase each with what a function makes of the answer that ``others`` give."""

    def handler(message: Message, context: Context) -> Message:
        reply = others(message, context)
        phase, said = sites.get(int(str(context.node_config["partition-id"])), ("", str))
        header: Any = message.content.get("config", {})
        if message.metadata.message_type == MESSAGE_TYPE and header["phase"] == phase:
            body: Any = reply.content["config"]
            reply.content["config"] = ConfigRecord({"body": json.dumps(said(json.loads(body["body"])))})
        return reply

    return handler


def _hello_with(**changed: Any) -> Callable[[Any], Any]:
    key = Ed25519PrivateKey.generate()

    def said(body: Any) -> Any:
        found = json.loads(body["text"]) | {"identity": keys.public_of(key).hex()} | changed
        return SignedHello.of(Hello.model_validate(found), key).dump()

    return said


HELLOS = {
    0: ("hello", _hello_with(slots=["01" + "00" * 31, "00" * 32])),  # keys of small order
    1: ("hello", _hello_with(box="00" * 32)),
    2: ("hello", _hello_with(slots=["09" + "00" * 31] * 2)),  # one key twice
    3: ("hello", _hello_with(terms="m=2")),
    4: ("hello", _hello_with(min_sites=2, colluding=48)),  # terms that fit nobody
}
NO_SHARES = {
    0: ("join", lambda body: {"dealt": {}}),
    1: ("join", lambda body: {"dealt": dict.fromkeys(body["dealt"], "zz")}),
}
JUNK = {1: ("join", lambda body: {"dealt": {key: "00" * (len(one) // 2) for key, one in body["dealt"].items()}})}


@pytest.mark.parametrize(("hostile", "lost"), [(HELLOS, [False, False]), (NO_SHARES, [False, False]), (JUNK, [True, False])])
def test_hostile_sites_cost_the_others_one_round_at_most(
    hostile: Mapping[int, Any], lost: list[bool], run_tiny: Runner, tmp_path: Path
) -> None:
    words = (f"federation.sites={3 + len(hostile)}", "federation.rounds=2", "federation.local_steps=1")
    run = run_tiny(*SECURE, *words, client=_hostile(hostile), folder=tmp_path / "run")
    history = read_history(run.folder)[1:]
    assert [one.failed for one in history] == lost
    assert history[1].answered == 3
    assert all(one.rejected["malformed"] for one in history if one.rejected)
    assert any(one.rejected for one in history)


@pytest.mark.parametrize(
    "words",
    [
        ("runtime.autocast=bf16",),
        ("model.trainable=head",),
        ("method={name: mp-ssl, batch: 4, lmo_batch: 4, lmo_every: 2, refresh_every: 1, buffer: 1}", "federation.local_steps=1"),
    ],
)
def test_whatever_is_trained_and_how_its_sum_is_the_mean_of_plain_replies(
    words: tuple[str, ...], run_tiny: Runner, tmp_path: Path
) -> None:
    """Reduced precision, a frozen body of which the head alone travels, latents that stay."""
    one = ("federation.rounds=1",)
    plain = run_tiny(*PLAIN, *words, *one, folder=tmp_path / "plain")
    secure = run_tiny(*SECURE, *words, *one, folder=tmp_path / "secure")
    bound = terms_of(secure.config).solved(4).error(4, 80)
    for key, value in _weights(plain).items():
        assert np.abs(_weights(secure)[key] - value).max() <= bound + np.spacing(np.abs(value)).max()
    assert not read_history(secure.folder)[1].failed


def test_a_run_of_few_neighbours_ends_with_the_mean(run_tiny: Runner, tmp_path: Path) -> None:
    """One site is silent in round 2. One that shows another nonce than it committed to, or none, is left out."""
    words = ("federation.sites=34", "federation.rounds=2", "federation.local_steps=1", "data.labels_per_class=1")
    few = ("federation.secure.neighbours=few", "federation.secure.min_sites=20")
    secure = run_tiny(*SECURE, *words, *few, client=_falls_out("train", 5), folder=tmp_path / "secure")
    plain = run_tiny(*words, client=_falls_out("train", 5), folder=tmp_path / "plain")
    assert [one.answered for one in read_history(secure.folder)] == [0, 34, 33]
    for key, value in _weights(plain).items():
        assert np.abs(_weights(secure)[key] - value).max() <= DRIFT
    kept = json.loads((secure.folder / "checkpoints" / "secure.json").read_text())
    assert {len(dealt) for dealt in kept["dealt"].values()} == {18}
    silent, lie = _falls_out("reveal", 7, (1,)), {0: ("reveal", lambda body: body | {"nonce": "00" * 32})}
    less = run_tiny(*SECURE, *words, *few, "federation.rounds=1", client=_hostile(lie, silent), folder=tmp_path / "less")
    first = read_history(less.folder)[1]
    assert (first.answered, first.failed, first.rejected) == (32, False, {"malformed": 1, "busy": 1})


def test_a_run_whose_labelled_step_alone_is_private_is_summed_and_charged(run_tiny: Runner, tmp_path: Path) -> None:
    private = "privacy={scope: labelled-step, epsilon: 8.0, public_size: 20, delta: 0.001, sample_rate: 0.2, noise: fast}"
    run = run_tiny(*SECURE, private, "model.norm=group", "federation.rounds=1", folder=tmp_path / "run")
    assert [(one.answered, one.failed) for one in read_history(run.folder)] == [(0, False), (4, False)]
    kinds = {row.kind for row in Ledger(run.sites / "0" / "ledger.sqlite").rows()}
    assert {"unaccounted", "reserve"} <= kinds


@pytest.mark.parametrize("word", ["federation.secure.min_sites=2", "federation.secure.range=8", "federation.aggregation=plain"])
def test_a_run_is_not_resumed_with_other_terms(word: str, run_tiny: Runner, tmp_path: Path) -> None:
    run_tiny(*SECURE, "federation.rounds=1", folder=tmp_path / "run")
    with pytest.raises(UserError, match=rf"made with another config.*{word.partition('=')[0]}"):
        run_tiny(*SECURE, "federation.rounds=1", word, folder=tmp_path / "run", resume=True)
