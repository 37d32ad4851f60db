"""A run killed at any moment and resumed ends with the bits of one that was not."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, Message
from safetensors.torch import load_file

from clients.app import app
from mpssl_fed.errors import UserError
from mpssl_fed.files import write_json
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.run_directory import RunDirectory, open_run
from tests.patience import wait_for

Runner = Callable[..., RunDirectory]

MP_SSL = (
    "method={name: mp-ssl, batch: 4, lmo_batch: 4, lmo_every: 2, refresh_every: 1, buffer: 1}",
    "federation.strategy.name=fedadam",
    "federation.sites=2",
    "federation.rounds=4",
)


def _same_end(one: RunDirectory, other: RunDirectory) -> None:
    first, second = load_file(one.folder / "model.safetensors"), load_file(other.folder / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(first[key].equal(second[key]) for key in first)
    left, right = one.checkpoint(), other.checkpoint()
    assert left is not None
    assert right is not None
    assert all(left.strategy[key].equal(right.strategy[key]) for key in left.strategy)
    for site in ("0", "1"):
        mine = load_file(one.sites / site / f"{one.run_id}-000004.safetensors")
        theirs = load_file(other.sites / site / f"{other.run_id}-000004.safetensors")
        assert mine.keys() == theirs.keys()
        assert all(mine[key].equal(theirs[key]) for key in mine)
    for run in (one, other):
        history = read_history(run.folder)
        assert [record.number for record in history] == [0, 1, 2, 3, 4]
        assert read_manifest(run.folder)["status"] == "finished"
    accuracies = [[record.accuracy for record in read_history(run.folder)] for run in (one, other)]
    assert accuracies[0] == accuracies[1]


def test_interrupted_between_two_sites_of_a_round(run_tiny: Runner, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def interrupted(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            calls.append((int(message.content["config"]["round"]), int(context.node_config["partition-id"])))  # type: ignore[arg-type,index]
            if calls[-1] == (3, 1):
                raise KeyboardInterrupt
        return app(message, context)

    whole = run_tiny(*MP_SSL, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_tiny(*MP_SSL, folder=tmp_path / "cut", client=interrupted)
    assert read_manifest(tmp_path / "cut")["status"] == "interrupted"
    stored = next((tmp_path / "cut" / "sites" / "0").glob("*-000003.safetensors"))
    before = load_file(stored)
    cut = run_tiny(*MP_SSL, folder=tmp_path / "cut", resume=True)
    again = load_file(stored)  # site 0 had finished round 3, and trained it again
    assert again.keys() == before.keys()
    assert all(again[key].equal(before[key]) for key in before)
    _same_end(whole, cut)


def _child(folder: str) -> None:
    from mpssl_fed.federation.engines.simulation import preflight, simulate
    from mpssl_fed.runs.progress import Progress
    from tests.federation.conftest import tiny_config

    config = tiny_config(*MP_SSL)
    preflight(config)
    simulate(open_run(config, Path(folder), resume=True), lambda: app, Progress())


def test_killed_at_random_moments(run_tiny: Runner, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "pytorch_pretrained_biggan"])
    start = time.monotonic()
    whole = run_tiny(*MP_SSL, folder=tmp_path / "whole")
    usual = time.monotonic() - start
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    cut = tmp_path / "cut"
    moments: list[str] = []
    for _ in range(3):
        child = context.Process(target=_child, args=(str(cut),))
        child.start()
        assert child.pid is not None
        _wait_for_start(cut, child)
        time.sleep(draw.uniform(0, 0.6 * usual))
        with contextlib.suppress(ProcessLookupError):  # it may have ended well just now
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        moments.append(",".join(sorted(path.name for path in cut.rglob("*.safetensors"))))
    ended = run_tiny(*MP_SSL, folder=cut, resume=True)
    print(f"seed {seed}; files at each kill: {moments}")
    _same_end(whole, ended)


def _wait_for_start(folder: Path, child: multiprocessing.process.BaseProcess) -> None:
    """Wait until the child works on the run: its manifest is (re)written first of all."""
    before = (folder / "manifest.json").stat().st_mtime_ns if (folder / "manifest.json").exists() else 0
    manifest = folder / "manifest.json"
    wait_for(lambda: not child.is_alive() or (manifest.exists() and manifest.stat().st_mtime_ns != before), "the child's start")
    assert child.is_alive() or child.exitcode == 0


def test_resume_wants_the_same_config(run_tiny: Runner) -> None:
    run_tiny()
    with pytest.raises(UserError, match=r"federation\.rounds was 2, now 5"):
        run_tiny("federation.rounds=5", resume=True)


def test_resuming_a_finished_run_changes_nothing(run_tiny: Runner) -> None:
    run = run_tiny()
    weights, metrics = load_file(run.folder / "model.safetensors"), (run.folder / "metrics.jsonl").read_bytes()
    run_tiny(resume=True)
    again = load_file(run.folder / "model.safetensors")
    assert all(weights[key].equal(again[key]) for key in weights)
    assert (run.folder / "metrics.jsonl").read_bytes() == metrics


def test_a_run_of_another_version_of_the_method_is_not_gone_on_with(run_tiny: Runner) -> None:
    """Half a run by one method and half by another is neither, though config and files fit."""
    run = run_tiny()
    manifest = read_manifest(run.folder)
    assert manifest["method_version"] == METHOD_VERSION
    for before in ({"method_version": METHOD_VERSION - 1}, {}):  # the first version did not write its number
        write_json(run.folder / "manifest.json", {k: v for k, v in manifest.items() if k != "method_version"} | before)
        with pytest.raises(UserError, match=rf"begun with version 1 of the method, this is version {METHOD_VERSION}"):
            run_tiny(resume=True)
