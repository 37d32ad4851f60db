"""Evaluations at the sites: planned is spent, and on disk before a read; a repeated message is free; nothing but a table leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from clients.app import app
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import TableReply, TrainReply
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.budget import Budget, simulated_budget
from mpssl_fed.federation.site.client import answer_request, evaluate_request
from mpssl_fed.federation.site.site import Site
from mpssl_fed.federation.site.spending import allowance
from mpssl_fed.federation.weights import to_record
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Weights
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.mechanism import Charge
from mpssl_fed.privacy.noise import SecureNoise, Tape
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.run_directory import RunDirectory
from tests.federation.conftest import tiny_config
from tests.federation.test_privacy import MP_SSL, PRIVACY, ask, history, moved, rows

Runner = Callable[..., RunDirectory]
TIMES = "federation.evaluate_at_sites={times: 2, held_out: 0.4}"
BASE = "method={name: base}"
KEY = bytes(range(32))


def private(*overrides: str) -> Config:
    return tiny_config(TIMES, PRIVACY, "federation.local_steps=1", *overrides)


def test_the_same_message_is_free_and_other_weights_are_charged_anew(tmp_path: Path) -> None:
    config = private()
    site, plan = Site(0, tmp_path), plan_for(config)
    key = plan.sigma_confusion, 1.0
    first = evaluate_request(site, ask(config, 1))
    assert [row.kind for row in rows(tmp_path)] == ["created", "records", "run", "reserve"]
    assert history(tmp_path) == plan.evaluation_history(1) == {key: 1}
    assert first.noise_std == plan.sigma_confusion
    before = rows(tmp_path)
    again = evaluate_request(Site(0, tmp_path), ask(config, 1))
    assert rows(tmp_path) == before
    assert torch.equal(first.counts, again.counts)

    reply = answer_request(site, ask(config, 1))  # the table took nothing from the round
    other = evaluate_request(site, ask(config, 2, reply.weights))
    assert not torch.equal(first.counts, other.counts)
    with pytest.raises(Refusal, match="plan"):
        evaluate_request(site, ask(config, 2, moved(reply.weights)))
    answer_request(site, ask(config, 2, reply.weights))
    assert history(tmp_path) == plan.history()
    spent = Ledger(tmp_path / "ledger.sqlite").spent("mnist-5k").runs["run1"]
    assert (spent.rounds, spent.evaluations) == (2, 2)


@pytest.mark.parametrize(("times", "number"), [(1, 0), (1, 1), (1, 3), (0, 2)])
@pytest.mark.parametrize("privacy", ["", PRIVACY])
def test_no_table_but_after_the_planned_rounds(tmp_path: Path, times: int, number: int, privacy: str) -> None:
    config = tiny_config(f"federation.evaluate_at_sites.times={times}", *filter(None, [privacy]))
    with pytest.raises(Refusal, match="plan"):
        evaluate_request(Site(0, tmp_path), ask(config, number))
    assert list(tmp_path.iterdir()) == []


def test_other_settings_than_the_runs_are_refused(tmp_path: Path) -> None:
    site, config = Site(0, tmp_path), private()
    evaluate_request(site, ask(config, 1))
    for change in ("federation.evaluate_at_sites.held_out=0.3", "optim.lr=0.5", "privacy.sigma_confusion_ratio=11"):
        with pytest.raises(Refusal, match="plan"):
            evaluate_request(site, ask(private(change), 1))
        with pytest.raises(Refusal, match="plan"):
            answer_request(site, ask(private(change), 1))


class Cut(SecureNoise):
    """The process dies where the noise would be added."""

    def add(self, total: Any, std: float) -> Any:
        raise KeyboardInterrupt


def test_a_table_is_charged_before_it_is_read_and_a_lost_one_stays_paid(tmp_path: Path) -> None:
    config = private()
    with pytest.raises(KeyboardInterrupt):
        evaluate_request(Site(0, tmp_path, Cut()), ask(config, 1))
    assert history(tmp_path) == plan_for(config).evaluation_history(1)
    evaluate_request(Site(0, tmp_path), ask(config, 1))
    with pytest.raises(Refusal, match="plan"):  # two were planned, two are paid
        evaluate_request(Site(0, tmp_path), ask(config, 2))


def check_spent(folder: Path, budget_of: Callable[[Config, Path], Any]) -> None:
    """After its rounds and evaluations a site has spent its plan, no less."""
    config, weights = private(), parts.initial_classifier(private()).shared_state()
    for number in (1, 2):
        for answer in (Site.train_round, Site.evaluate):
            made = parts.simulated(config, 0)
            answer(Site(0, folder), "run1", number, config, to_record(weights), made, budget_of(config, folder))
    assert history(folder) == plan_for(config).history()


class FreeTables(Budget):
    """Lets tables leave that stand in no ledger."""

    def reserve_evaluation(self, run: str, number: int, labelled: Images) -> Charge:
        return allowance(self.plan.evaluation_history(number))


def test_planned_is_spent_and_a_site_that_charges_no_table_is_caught(tmp_path: Path) -> None:
    check_spent(tmp_path / "honest", simulated_budget)
    with pytest.raises(AssertionError):
        check_spent(tmp_path / "free", lambda *where: FreeTables(**vars(simulated_budget(*where))))


def site_with(images: Images, config: Config) -> Parts:
    task = parts.task_of(parts.dataset(config))
    config = config.model_copy(update={"data": config.data.model_copy(update={"task": task})})
    return parts.own(config, images, parts.generator(config), KEY)


def test_with_the_releases_replayed_nothing_else_of_the_data_comes_out(tmp_path: Path) -> None:
    config, pool = private(), parts.dataset(private()).train

    def trace(folder: Path, images: Images, noise: Any) -> tuple[list[Any], list[Any]]:
        weights, told = parts.initial_classifier(config).shared_state(), []
        for number in (1, 2):
            for answer in (Site.train_round, Site.evaluate):
                made, budget = site_with(images, config), simulated_budget(config, folder)
                told.append(answer(Site(0, folder, noise), "run1", number, config, to_record(weights), made, budget))
        found = [reply.weights if isinstance(reply, TrainReply) else {"": reply.counts} for reply in told]
        return found, [(row.kind, row.run, row.round, row.body) for row in rows(folder) if row.kind != "records"]

    def same(one: list[Weights], other: list[Weights]) -> list[bool]:
        return [all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(one, other, strict=True)]

    others = pool.take(range(2000, 2075))
    others = others.take(torch.nonzero(others.y != 3).flatten())
    tape = Tape()
    first, ledger = trace(tmp_path / "mine", pool.take(range(40)), tape)
    for name, images in (("others", others), ("none", pool.take([]))):
        replayed, its_ledger = trace(tmp_path / name, images, Tape(releases=tape.releases))
        assert all(same(first, replayed))
        assert its_ledger == ledger
    free, its_ledger = trace(tmp_path / "free", others, None)
    assert not any(same(first, free))
    assert its_ledger == ledger


@pytest.mark.parametrize("method", [BASE, MP_SSL])
def test_each_side_sees_its_own_images_alone(tmp_path: Path, method: str) -> None:
    """Other pixels and labels on one side change not a bit of what the other leads to."""
    config = tiny_config(TIMES, method)
    images = parts.dataset(config).train.take(range(60))
    images = replace(images, subjects=tuple(f"p{i // 2}" for i in range(60)))
    made = site_with(images, config)
    assert made.held_out is not None
    noise = torch.Generator().manual_seed(0)

    def blurred(some: Images) -> Images:
        return replace(some, x=torch.randint(256, some.x.shape, generator=noise).to(some.x), y=(some.y + 1) % 10)

    start = to_record(parts.initial_classifier(config).shared_state())

    def both(name: str, **sides: Images) -> tuple[Weights, torch.Tensor]:
        site = Site(0, tmp_path / name)
        trained = site.train_round("run1", 1, config, start, replace(site_with(images, config), **sides), None)
        return trained.weights, site.evaluate("run1", 1, config, start, replace(site_with(images, config), **sides), None).counts

    weights, table = both("as they are")
    unseen, other_table = both("held out", held_out=blurred(made.held_out))
    assert all(torch.equal(weights[key], unseen[key]) for key in weights)
    assert not torch.equal(table, other_table)
    other_weights, unmoved = both("trained on", labelled=blurred(made.labelled))
    assert torch.equal(table, unmoved)
    assert any(not torch.equal(weights[key], other_weights[key]) for key in weights)
    assert int(table.sum()) == len(made.held_out)


def test_a_run_tells_its_tables_and_a_resumed_one_asks_for_none_twice(run_tiny: Runner, tmp_path: Path) -> None:
    evaluated: list[RecordDict] = []

    def cut(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "evaluate":
            if message.content["config"]["round"] == 2 and context.node_config["partition-id"] == 1:  # type: ignore[index]
                raise KeyboardInterrupt
            evaluated.append(app(message, context).content)
            return Message(evaluated[-1], reply_to=message)
        return app(message, context)

    words = (TIMES, PRIVACY, "federation.local_steps=1")
    with pytest.raises(KeyboardInterrupt):
        run_tiny(*words, client=cut)
    assert len(evaluated) == 4
    run = run_tiny(*words, resume=True)
    last = read_history(run.folder)[-1]
    assert last.rejected == {}
    assert last.at_sites is not None
    given = np.frombuffer(bytes(evaluated[3]["arrays"]["confusion"].data)[-400:], "<f4")  # type: ignore[index,union-attr]
    assert np.array_equal(np.array(last.at_sites["sites"]["0"]["counts"]).ravel(), np.round(given.astype(np.float64), 6))
    for site in ("0", "1", "2"):
        assert Ledger(run.sites / site / "ledger.sqlite").spent("mnist-5k").history == plan_for(run.config).history()
    for content in evaluated:
        assert set(content) == {"arrays", "metrics"}
        assert {key: tuple(array.shape) for key, array in content["arrays"].items()} == {"confusion": (10, 10)}  # type: ignore[union-attr]
        assert set(content["metrics"]) == {"noise-std"}  # type: ignore[arg-type]
    told = read_manifest(run.folder)["result"]["at_sites"]
    assert told == last.at_sites
    assert (told["unit"], told["asked"], told["missing"], told["rejected"]) == ("image", 3, 0, {})
    assert read_history(run.folder)[1].at_sites is not None
    assert read_history(run.folder)[0].at_sites is None


def test_one_site_that_declines_is_left_out_of_the_pool(run_tiny: Runner) -> None:
    def client(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type == "evaluate" and context.node_config["partition-id"] == 2:
            reply.content["arrays"] = ArrayRecord({"confusion": Array(np.full((10, 10), np.nan, np.float32))})
        return reply

    run = run_tiny(TIMES, "data.labels_per_class=10", "federation.local_steps=1", client=client)
    told = read_history(run.folder)[-1].at_sites
    assert told is not None
    assert told["rejected"] == {"non-finite": 1}
    assert list(told["sites"]) == ["0", "1"]
    assert told["pooled"]["noise_std"] == 0
    whole = sum(len(parts.simulated(run.config, site).held_out or ()) for site in (0, 1))
    assert np.sum(told["pooled"]["counts"]) == whole


def record(table: Any, **metrics: Any) -> RecordDict:
    values = ArrayRecord({"confusion": Array(np.asarray(table, np.float32))})
    return RecordDict({"arrays": values, "metrics": MetricRecord({"noise-std": 1.0} | metrics)})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("made_up", "code"),
    [
        (record(np.zeros((2, 3))), "misshapen"),
        (record(np.full((2, 2), np.inf)), "non-finite"),
        (record(np.full((2, 2), 1e13)), "too-large"),
        (record([[1, -1], [0, 1]], **{"noise-std": 0.0}), "number"),
        (record(np.ones((2, 2)), **{"noise-std": -1.0}), "number"),
        (record(np.ones((2, 2)), **{"noise-std": 1e300}), "number"),
        (record(np.ones((2, 2)), **{"noise-std": float("nan")}), "non-finite"),
        (record(np.ones((2, 2)), images=7), "malformed"),
        (RecordDict({"arrays": ArrayRecord({})}), "malformed"),
    ],
)
def test_a_table_that_a_site_made_up_is_left_out(made_up: RecordDict, code: str) -> None:
    assert TableReply.from_record(record([[1.5, -1], [0, 1]]), 2).noise_std == 1.0
    with pytest.raises(Refusal, match=code):
        TableReply.from_record(made_up, 2)
