"""A site that hangs: its round ends at the deadline, too few answers leave the weights alone, and afterwards it is back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.runs import checkpoint
from mpssl_fed.runs.reader import read_manifest
from tests.patience import wait_for
from tests.real.sites import Serving, Story, tiny

pytestmark = pytest.mark.slow


def fair_deadline() -> float:
    """Return seconds that an honest round does not need on this machine as it is: Flower starts a process for each message."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import flwr.clientapp, torch"], check=True)
    return max(20.0, 10 * (time.monotonic() - began))


def test_a_hung_site_costs_its_round_and_comes_back(tmp_path: Path) -> None:
    story, run, deadline = Story(), tmp_path / "run", fair_deadline()
    config = tiny(f"federation={{sites: 2, rounds: 6, local_steps: 2, min_sites: 2, join_deadline_s: 600, deadline_s: {deadline}}}")
    with Deployment(config, run, note=lambda _: None) as up:
        daemon = up.children.running["daemon-1"].pid
        serving = Serving(up, story)
        wait_for(lambda: story.knows(1) or serving.failed, "round 1")
        os.kill(daemon, signal.SIGSTOP)
        try:
            wait_for(lambda: any(record["missing"] for record in story.records) or serving.failed, "a round without the site")
            hung = checkpoint.load(run / "checkpoints" / "last.safetensors")
        finally:
            os.kill(daemon, signal.SIGCONT)
        serving.end()
    assert serving.failed == []
    assert read_manifest(run)["status"] == "finished"
    late = next(record for record in story.records if record["missing"])
    assert (late["sites_asked"], late["sites_answered"], late["failed"]) == (2, 1, True)
    assert late["seconds"] >= deadline
    assert hung is not None
    assert hung.round == late["round"]
    assert late["test_loss"] == story.records[late["round"] - 1]["test_loss"]  # too few answers: the weights are those before
    assert any(record["sites_answered"] == 2 for record in story.records[late["round"] + 1 :])
