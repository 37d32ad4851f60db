"""Bad, late, missing and failing sites are counted and left out; a real in-process Grid carries every message."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict

from clients.app import app
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.runs import checkpoint
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.run_directory import RunDirectory

Runner = Callable[..., RunDirectory]


Updates = dict[int, dict[str, torch.Tensor]]


def _bad_site(site: int, spoil: Callable[[Message], Message], updates: Updates) -> Callable[[Message, Context], Message]:
    """Return the real ClientApp, but what ``site`` answers to a train message goes through ``spoil``; ``updates``: what all had
    trained."""

    def call(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type == "train":
            record = reply.content["arrays"]
            updates[int(context.node_config["partition-id"])] = {k: torch.tensor(v.numpy()) for k, v in record.items()}  # type: ignore[union-attr,arg-type]
        return spoil(reply) if message.metadata.message_type == "train" and context.node_config["partition-id"] == site else reply

    return call


def _rewrite(change: Callable[[dict[str, np.ndarray], dict[str, Any]], None]) -> Callable[[Message], Message]:
    def spoil(reply: Message) -> Message:
        arrays = {key: np.array(array.numpy()) for key, array in reply.content["arrays"].items()}
        metrics = dict(reply.content["metrics"])
        change(arrays, metrics)
        record = ArrayRecord({key: Array(value) for key, value in arrays.items()})
        reply.content = RecordDict({"arrays": record, "metrics": MetricRecord(metrics)})
        return reply

    return spoil


def _nan(arrays: dict[str, np.ndarray], _metrics: dict[str, Any]) -> None:
    arrays["head.bias"][0] = np.nan


def _shape(arrays: dict[str, np.ndarray], _metrics: dict[str, Any]) -> None:
    arrays["head.bias"] = arrays["head.bias"][:-1]


def _extra(arrays: dict[str, np.ndarray], _metrics: dict[str, Any]) -> None:
    arrays["latents"] = np.zeros(3, np.float32)


def _no_size(_arrays: dict[str, np.ndarray], metrics: dict[str, Any]) -> None:
    metrics["num-examples"] = -4.0


def _raise(_reply: Message) -> Message:
    raise RuntimeError("boom")


def _empty(reply: Message) -> Message:
    reply.content = RecordDict()
    return reply


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_rewrite(_nan), "non-finite"),
        (_rewrite(_shape), "misshapen"),
        (_rewrite(_extra), "misshapen"),
        (_rewrite(_no_size), "size"),
        (_empty, "malformed"),
        (_raise, "app-raised"),
    ],
)
def test_a_bad_reply_is_counted_and_left_out(run_tiny: Runner, spoil: Callable[[Message], Message], code: str) -> None:
    updates: Updates = {}
    run = run_tiny("federation.rounds=1", client=_bad_site(1, spoil, updates))
    record = read_history(run.folder)[1]
    assert (record.asked, record.answered, record.missing) == (3, 2, 0)
    assert record.rejected == {code: 1}
    saved = run.checkpoint()
    assert saved is not None
    assert _difference(saved.weights, _mean_of_sites(run, updates, (0, 2))) < 1e-6


def _mean_of_sites(run: RunDirectory, updates: Updates, sites: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return the average, by size, of the updates of ``sites``."""
    sizes = [len(parts.labelled(run.config, site)) for site in sites]
    total: dict[str, torch.Tensor] = {}
    for site, size in zip(sites, sizes, strict=True):
        for key, value in updates[site].items():
            total[key] = total.get(key, torch.zeros(())) + value.double() * size / sum(sizes)
    return total


def _difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def test_late_and_unreached_sites_are_missing_and_the_deadline_holds(run_tiny: Runner) -> None:
    def slow(reply: Message) -> Message:
        time.sleep(4.2)
        return reply

    updates: Updates = {}
    run = run_tiny("federation.rounds=1", "federation.deadline_s=4", client=_bad_site(1, slow, updates))
    record = read_history(run.folder)[1]
    assert (record.asked, record.answered, record.missing) == (3, 1, 2)
    assert record.seconds >= 4
    saved = run.checkpoint()
    assert saved is not None
    assert _difference(saved.weights, _mean_of_sites(run, updates, (0,))) < 1e-6


def test_too_few_answers_keep_the_weights_and_fail_the_round(run_tiny: Runner) -> None:
    run = run_tiny("federation.rounds=2", "federation.min_sites=3", client=_failing_in_round_one())
    history = read_history(run.folder)
    assert history[1].failed is True
    assert history[1].accuracy == history[0].accuracy
    assert not history[2].failed
    assert history[2].answered == 3


def _failing_in_round_one() -> Callable[[Message, Context], Message]:
    def call(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and message.content["config"]["round"] == 1:
            raise RuntimeError("down")
        return app(message, context)

    return call


def test_a_run_without_any_answer_fails_and_says_why(run_tiny: Runner, tmp_path: Any) -> None:
    def call(message: Message, context: Context) -> Message:
        return _raise(message) if message.metadata.message_type == "train" else app(message, context)

    with pytest.raises(UserError, match=r"no site answered in 2 round\(s\): 0 missing, refused or left out: 6 app-raised"):
        run_tiny(client=call)
    assert read_manifest(tmp_path / "run")["status"] == "failed"
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_sites_that_do_not_join_end_the_wait(run_tiny: Runner) -> None:
    with pytest.raises(UserError, match=r"0 of at least 1 sites joined within .*=0.5 s; refused: .*app-raised"):
        run_tiny("federation.join_deadline_s=0.5", client=lambda message, context: _raise(message))


def test_sampling_depends_on_the_seed_alone(run_tiny: Runner, tmp_path: Any) -> None:
    def asked(folder: str, *overrides: str) -> list[list[int]]:
        seen: dict[int, list[int]] = {}

        def call(message: Message, context: Context) -> Message:
            if message.metadata.message_type == "train":
                number = message.content["config"]["round"]
                seen.setdefault(number, []).append(int(context.node_config["partition-id"]))  # type: ignore[arg-type]
            return app(message, context)

        options = ("federation.sites=6", "federation.fraction=0.4", "federation.rounds=4", "federation.local_steps=1")
        run_tiny(*options, *overrides, client=call, folder=tmp_path / folder)
        return [seen[number] for number in sorted(seen)]

    first = asked("a")
    assert [len(sites) for sites in first] == [2, 2, 2, 2]
    assert all(sites == sorted(sites) for sites in first)
    assert len({tuple(sites) for sites in first}) > 1
    assert asked("b") == first
    assert asked("c", "seed=5") != first


def test_metrics_have_the_fields_that_others_read(run_tiny: Runner) -> None:
    run = run_tiny()
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [0, 1, 2]
    for record in records:
        assert 0 <= record["test_accuracy"] <= 1
        assert {"train", "generate", "serialise", "aggregate"} <= record["timings"].keys()
        assert {"test_loss", "train_loss", "seconds", "sites_asked", "sites_answered", "missing", "rejected"} <= record.keys()
    assert records[2]["timings"]["train"] > 0
    rows = (run.folder / "metrics.csv").read_text().splitlines()
    assert rows[0].startswith("round,test_accuracy")
    assert len(rows) == 4


def test_best_checkpoint_is_the_best_round(run_tiny: Runner) -> None:
    run = run_tiny("federation.rounds=3", "optim.lr=0.1", "optim.name=sgd")
    best = checkpoint.load(run.folder / "checkpoints" / "best.safetensors")
    assert best is not None
    accuracies = [record.accuracy for record in read_history(run.folder)]
    assert accuracies[best.round] == max(accuracies)


def test_evaluation_is_as_rare_as_asked(run_tiny: Runner) -> None:
    run = run_tiny("federation.rounds=3", "federation.eval_every=2")
    assert [record.accuracy is not None for record in read_history(run.folder)] == [True, False, True, True]


def test_a_warm_start_moves_the_initial_model_and_every_site_gets_it(run_tiny: Runner, tmp_path: Any) -> None:
    options = ("warm_start={part: body, steps: 2, batch: 4}", "model.trainable=head", "federation.rounds=1")
    warm = run_tiny(*options, folder=tmp_path / "warm").checkpoint()
    cold = run_tiny("federation.rounds=1", folder=tmp_path / "cold").checkpoint()
    assert warm is not None
    assert cold is not None
    assert warm.weights.keys() == cold.weights.keys()  # the frozen body travels, since the sites cannot make it themselves
    body = [key for key in warm.weights if key.startswith("body.")]
    assert any(not torch.equal(warm.weights[key], cold.weights[key]) for key in body)


def test_fedprox_holds_the_sites_near_the_global_model(run_tiny: Runner, tmp_path: Any) -> None:
    def moved(folder: str, strategy: str) -> float:
        options = (f"federation.strategy={strategy}", "federation.rounds=1", "federation.local_steps=6")
        run = run_tiny(*options, folder=tmp_path / folder)
        saved = run.checkpoint()
        assert saved is not None
        return _difference(saved.weights, parts.initial_classifier(run.config).shared_state())

    assert moved("prox", "{name: fedprox, proximal_mu: 300}") < 0.8 * moved("avg", "{name: fedavg}")
