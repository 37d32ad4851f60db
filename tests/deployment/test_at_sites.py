"""Evaluation at a deployed site, without its socket: what its owner allows, what leaves, and what is refused unpaid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpssl_fed.config import Config
from mpssl_fed.data.held_out import held_out
from mpssl_fed.deployment import wire
from mpssl_fed.deployment.own_data import SPLIT_KEY, OwnData
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.resident import Resident
from mpssl_fed.federation import parts
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site import evaluation
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.policy import Policy
from tests.patience import PATIENCE_S, wait_for
from tests.real.sites import POLICY, message, tiny, weights

SECTION = "federation={sites: 2, rounds: 3, local_steps: 1, evaluate_at_sites: {times: 2, held_out: 0.4}}"
BARE = tiny(SECTION)
PRIVATE = tiny(SECTION, "privacy={epsilon: 8.0, public_size: 100, sample_rate: 1.0}")
OFF = {"scope": "off", "metrics": ["loss", "confusion"]}
ON = {"scope": "end-to-end", "max_epsilon": 20.0, "max_sample_rate": 1.0, "metrics": []}


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_share(tmp_path_factory.mktemp("data") / "images", BARE, 0)


@pytest.fixture
def site(tmp_path: Path, listing: Path) -> Any:
    """``site(**policy)`` -> a deployed site of that policy."""

    def site(**more: Any) -> Resident:
        assert BARE.data.task is not None
        policy = Policy.model_validate(POLICY | more)
        return Resident(0, tmp_path / "state", OwnData(listing, BARE.data.task.classes, channels=1), policy)

    return site


def evaluate(site: Resident, config: Config, number: int = 2, **header: Any) -> tuple[np.ndarray, float]:
    arrays, text = wire.unpack(site.evaluate(message(config, weights(config), number, **header)), "metrics")
    metrics = json.loads(text)
    assert set(arrays) == {"confusion"}
    assert set(metrics) == {"noise-std"}
    return arrays["confusion"], metrics["noise-std"]


def charged(site: Resident) -> dict[tuple[float, float], int]:
    ledger = Ledger(site.state / "ledger.sqlite")
    return {} if ledger.files.absent else ledger.spent("digits").history


def test_exact_counts_leave_where_the_owner_lists_them_and_the_ledger_says_so(site: Any) -> None:
    here = site(**OFF)
    counts, std = evaluate(here, BARE)
    images = here.data.images()
    out = images.take(np.flatnonzero(held_out(images, 0.4, (here.state / SPLIT_KEY).read_bytes())))
    model = parts.initial_classifier(BARE)
    with torch.no_grad():
        named = model.eval()(out.floats()).argmax(1).numpy()
    expected = np.zeros((10, 10), np.float32)
    np.add.at(expected, (out.y.numpy(), named), 1)
    assert std == 0
    assert np.array_equal(counts, expected)
    assert Ledger(here.state / "ledger.sqlite").spent("digits").unaccounted
    _, text = wire.unpack(here.train(message(BARE, weights(BARE))), "metrics")
    assert json.loads(text)["num-examples"] == len(images) - len(out)


@pytest.mark.parametrize("work", ["evaluate", "train"])
def test_without_that_the_run_is_refused_before_anything_is_read(site: Any, work: str) -> None:
    here = site(scope="off", metrics=["loss"])
    with pytest.raises(Refusal, match="metric"):
        getattr(here, work)(message(BARE, weights(BARE)))
    assert list(here.state.glob("*")) == []
    with pytest.raises(ValueError, match="confusion would be exact"):
        Policy.model_validate(POLICY | ON | {"metrics": ["confusion"]})


def test_under_privacy_a_table_is_noised_and_charged_and_nothing_else_leaves(site: Any) -> None:
    here = site(**ON)
    counts, std = evaluate(here, PRIVATE)
    assert std > 1
    assert charged(here) == {(std, 1.0): 1}
    again, _ = evaluate(here, PRIVATE)
    assert np.array_equal(counts, again)
    assert charged(here) == {(std, 1.0): 1}
    assert here.status()["dropped"] == {}
    assert here.status()["last"]["round"] == 2


@pytest.mark.parametrize(
    ("policy", "asked", "number", "code"),
    [
        ({"max_evaluations": 1}, (), 2, "evaluations"),
        ({"max_evaluations": 0}, (), 2, "evaluations"),
        ({"max_table_classes": 9}, (), 2, "table-size"),
        ({}, ("federation.evaluate_at_sites.held_out=0.6",), 2, "server-key"),
        ({"min_sigma": 1.5}, ("privacy.sigma_confusion_ratio=0.2",), 2, "sigma"),
        ({}, (), 1, "plan"),
        ({}, (), 4, "rounds"),
        ({"max_epsilon": 7.0}, (), 2, "epsilon"),
    ],
)
def test_absurd_requests_are_refused_early_and_cost_nothing(
    site: Any, policy: dict[str, Any], asked: tuple[str, ...], number: int, code: str
) -> None:
    here = site(**ON | policy)
    config = tiny(SECTION, "privacy={epsilon: 8.0, public_size: 100, sample_rate: 1.0}", *asked)
    with pytest.raises(Refusal, match=code):
        evaluate(here, config, number)
    assert charged(here) == {}


@pytest.mark.parametrize(("config", "policy"), [(BARE, OFF), (PRIVATE, ON)], ids=["exact", "private"])
def test_the_owners_time_limit_is_looked_at_before_each_batch(
    site: Any, config: Config, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in training: it ends, what was reserved stays spent, nothing is kept of it, and the daemon serves on."""
    here, asked = site(**policy), []
    monkeypatch.setattr(evaluation, "BATCH", 1)
    worker, at_once = here._worker, here.site

    def proceed() -> None:
        asked.append(1)
        if len(asked) == 2:  # the batch before took long
            worker.limit_s = 0.0
            wait_for(worker._overdue.is_set, "the limit")
        worker.proceed()

    here.site = replace(at_once, proceed=proceed)
    with pytest.raises(Refusal, match="time-limit"):
        evaluate(here, config)
    assert len(asked) == 2
    assert len(charged(here)) == (config is PRIVATE)
    assert not list((here.state / "rounds").rglob("*.safetensors"))
    worker.limit_s, here.site = PATIENCE_S, at_once
    counts, _ = evaluate(here, config)
    assert counts.shape == (10, 10)
    assert list((here.state / "rounds").rglob("*.safetensors"))


def test_too_few_images_evaluate_nothing_where_that_may_be_told(tmp_path: Path) -> None:
    assert BARE.data.task is not None
    listing = write_share(tmp_path / "images", BARE, 0)
    lines = listing.read_text(encoding="utf-8").splitlines()
    listing.write_text("\n".join(lines[:2]), encoding="utf-8")  # one image
    data = OwnData(listing, BARE.data.task.classes, channels=1)
    answers = []
    for number in range(4):  # each with a key of its own
        here = Resident(0, tmp_path / str(number), data, Policy.model_validate(POLICY | OFF))
        with pytest.raises(Refusal, match="too-few"):
            evaluate(here, BARE)
        here = Resident(0, tmp_path / f"private{number}", data, Policy.model_validate(POLICY | ON))
        answers.append(evaluate(here, PRIVATE)[1])
    assert len(set(answers)) == 1
