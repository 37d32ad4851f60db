"""One deployment of three sites in which nearly everything goes wrong, kill -9 where that is the fault; it still ends well."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mpssl_fed.deployment import wire
from mpssl_fed.deployment.processes import marked
from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.errors import UserError
from mpssl_fed.runs.reader import read_manifest
from tests.patience import wait_for
from tests.real.sites import QUIET, Serving, Story, tiny

pytestmark = pytest.mark.slow
CONFIG = tiny("federation={sites: 3, rounds: 6, local_steps: 200, min_sites: 1, join_deadline_s: 600, deadline_s: 120}")


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Story, Path, list[UserError]]:
    run, story = tmp_path_factory.mktemp("faults") / "run", Story()
    with Deployment(CONFIG, run, note=lambda _: None) as up:
        token, home = up.children.token, up.home
        up.children.kill("daemon-2")
        hostile = [sys.executable, "-m", "tests.real.hostile_daemon", str(home / "2.sock"), "2"]
        up.children.start("hostile", hostile, QUIET, cwd=Path(__file__).parents[2])
        serving = Serving(up, story)
        failed = serving.failed
        wait_for(lambda: story.knows(1) or failed, "round 1")
        wait_for(lambda: at_work(home / "0.sock") or failed, "training in round 2")
        os.killpg(up.children.running["daemon-0"].pid, signal.SIGKILL)
        wait_for(lambda: story.knows(2) or failed, "round 2")
        wait_for(lambda: at_work(home / "1.sock") or failed, "training in round 3")
        os.killpg(up.children.running["supernode-1"].pid, signal.SIGKILL)
        serving.end()
    assert not marked(token)
    assert not home.exists()
    return story, run, failed


def test_run_ends_well(story: tuple[Story, Path, list[UserError]]) -> None:
    assert story[2] == []
    assert read_manifest(story[1])["status"] == "finished"


def test_hostile_updates_are_left_out_by_code(story: tuple[Story, Path, list[UserError]]) -> None:
    rejected = [record["rejected"] for record in story[0].records]
    assert rejected[1] == {"non-finite": 1}
    assert rejected[2] == {"misshapen": 1}
    assert rejected[3]["too-large"] == 1
    assert all(np.isfinite(value).all() for value in load_file(story[1] / "model.safetensors").values())


def test_killed_daemon_answers_its_round_after_a_restart(story: tuple[Story, Path, list[UserError]]) -> None:
    assert story[0].records[2]["sites_answered"] == 2
    assert story[0].records[2]["missing"] == 0


def test_killed_supernode_costs_its_round_at_most(story: tuple[Story, Path, list[UserError]]) -> None:
    third, *_, last = story[0].records[3:]
    assert third["sites_answered"] in (1, 2)
    assert third["seconds"] < 2 * CONFIG.federation.deadline_s
    assert last["sites_asked"] == 3
    assert last["sites_answered"] == 3  # a finite, well-shaped lie is only stopped by a robust strategy


def at_work(socket: Path) -> bool:
    """Whether a daemon trains right now."""
    try:
        return bool(json.loads(wire.call(socket, "GET", wire.STATUS)[1]).get("at_work"))
    except (OSError, ValueError):
        return False
