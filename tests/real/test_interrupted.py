"""Deployments that are cut short, by Ctrl-C, by kill -9 and by the death of the server; each goes on with --resume."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import mpssl_fed
from mpssl_fed.deployment.processes import marked
from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.deployment.submit import submit
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.reader import read_history, read_manifest
from tests.patience import PATIENCE_S, wait_for
from tests.real.sites import TINY, Serving, alive, deploy, equal, tiny

pytestmark = pytest.mark.slow
ROUNDS = {"sites": 2, "rounds": 3, "local_steps": 2, "join_deadline_s": PATIENCE_S, "deadline_s": PATIENCE_S}


@pytest.mark.parametrize(
    ("number", "times", "status"),
    [(signal.SIGINT, 1, 130), (signal.SIGINT, 2, 130), (signal.SIGTERM, 1, 130), (signal.SIGKILL, 1, -9)],
    ids=["int", "twice", "term", "kill"],  # short: the folder's name is part of a socket's path
)
def test_cut_short(tmp_path: Path, number: signal.Signals, times: int, status: int) -> None:
    first = deploy(tmp_path, ROUNDS, "--output", "run")
    wait_for(lambda: len(read_history(tmp_path / "run")) > 1 or first.poll() is not None, "round 1")
    first.send_signal(number)
    if times == 2:  # while it asks the SuperLink to stop the run
        wait_for(lambda: any(b"flwr\0stop" in command for command in alive(tmp_path)) or first.poll() is not None, "its last words")
        first.send_signal(number)
    output, _ = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == status, output
    assert "Traceback" not in output
    assert (status == -9) or output.splitlines()[-1].endswith("Continue with: mpssl-fed deploy config.yaml --output run --resume")
    wait_for(lambda: not alive(tmp_path), "the end of every process")
    wait_for(lambda: not list((tmp_path / "tmp").iterdir()), "the end of the temporary folder")
    second = deploy(tmp_path, ROUNDS, "--output", "run", "--resume")
    output, _ = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, output
    assert [record.number for record in read_history(tmp_path / "run")] == [0, 1, 2, 3]
    whole = mpssl_fed.simulate(TINY | {"federation": ROUNDS}, f"output.dir={tmp_path / 'whole'}")
    assert equal(load_file(tmp_path / "run" / "model.safetensors"), load_file(whole.folder / "model.safetensors"))
    assert not alive(tmp_path)


@pytest.mark.parametrize("victim", ["superlink", "serverapp"])
def test_server_is_killed(tmp_path: Path, victim: str) -> None:
    config, run = tiny(f"federation={ROUNDS | {'local_steps': 300}}"), tmp_path / "run"
    with Deployment(config, run, note=lambda _: None) as up:
        serving = Serving(up, Progress())
        wait_for(lambda: len(read_history(run)) > 1, "round 1")
        found = up.children.running["superlink"].pid if victim == "superlink" else server_app(up.children.token)
        os.kill(found, signal.SIGKILL)
        serving.end()
    assert serving.failed
    assert read_manifest(run)["status"] != "finished"
    with Deployment(config, run, resume=True, note=lambda _: None) as up:
        up.serve(Progress())
    assert read_manifest(run)["status"] == "finished"
    assert [record.number for record in read_history(run)] == [0, 1, 2, 3]


def test_superlink_is_restarted_with_its_database(tmp_path: Path) -> None:
    """The run ends; the sites come back by themselves, and ``submit --resume`` goes on from the last round."""
    config, run = tiny(f"federation={ROUNDS | {'local_steps': 300}}"), tmp_path / "run"
    with Deployment(config, run, note=lambda _: None) as up:
        serving = Serving(up, Progress())
        wait_for(lambda: len(read_history(run)) > 1, "round 1")
        up.children.restart("superlink")
        serving.end()
        assert serving.failed
        assert "finished:failed" in str(serving.failed[0])
        resumed = up.config.model_copy(update={"output": up.config.output.model_copy(update={"resume": True})})
        submit(up.flower, resumed, run, up.home / "again", Progress())
    assert read_manifest(run)["status"] == "finished"
    assert [record.number for record in read_history(run)] == [0, 1, 2, 3]
    assert read_history(run)[-1].answered == 2


def server_app(token: str) -> int:
    """Return the process of a deployment's ServerApp."""
    return next(pid for pid in marked(token) if b"flwr-serverapp" in Path(f"/proc/{pid}/cmdline").read_bytes())
