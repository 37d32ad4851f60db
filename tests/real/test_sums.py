"""Four deployed sites in sums, two of whose daemons are killed with kill -9: while one trains, and after one has answered."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mpssl_fed.deployment.processes import marked
from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.errors import UserError
from mpssl_fed.runs.reader import read_manifest
from tests.patience import wait_for
from tests.real.sites import Serving, Story, tiny
from tests.real.test_faults import at_work

pytestmark = pytest.mark.slow
CONFIG = tiny(
    "federation={sites: 4, rounds: 5, local_steps: 60, aggregation: secure, secure: {slots: 2, min_sites: 2},"
    " join_deadline_s: 600, deadline_s: 120}"
)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Story, Path, list[UserError]]:
    run, story = tmp_path_factory.mktemp("sums") / "run", Story()
    with Deployment(CONFIG, run, note=lambda _: None) as up:
        token, home = up.children.token, up.home
        serving = Serving(up, story)
        failed = serving.failed
        keys = run / "checkpoints" / "secure.json"
        wait_for(lambda: (keys.exists() and at_work(home / "0.sock")) or failed, "training in round 1")
        os.killpg(up.children.running["daemon-0"].pid, signal.SIGKILL)
        wait_for(lambda: story.knows(1) or failed, "round 1")
        os.killpg(up.children.running["daemon-1"].pid, signal.SIGKILL)
        serving.end()
    assert not marked(token)
    return story, run, failed


def test_the_run_ends_and_killed_daemons_come_back_with_new_keys(story: tuple[Story, Path, list[UserError]]) -> None:
    told, run, failed = story
    assert failed == []
    assert read_manifest(run)["status"] == "finished"
    assert told.records[1]["sites_answered"] == 3
    assert told.records[1]["rejected"] == {"secure-epoch": 1}
    assert told.records[2]["sites_answered"] in (2, 3)
    assert told.records[2].get("failed")  # two of four are gone, and three open a sum
    late = [(record["sites_answered"], record["rejected"], record["missing"], record.get("failed")) for record in told.records[3:]]
    assert late == [(4, {}, 0, None)] * 3
    assert all(np.isfinite(value).all() for value in load_file(run / "model.safetensors").values())


def test_the_server_holds_no_update_of_a_site(story: tuple[Story, Path, list[UserError]]) -> None:
    """Of its run directory: what it keeps of sums are hellos, sealed shares, slots and places."""
    kept = json.loads((story[1] / "checkpoints" / "secure.json").read_text())
    assert set(kept) == {"run", "hellos", "dealt", "seed", "proposed", "slot", "under_way", "lost", "served"}
    assert set(kept["under_way"]) == {"round", "slot", "participants", "survivors", "request"}
    assert all(record["train_loss"] is None for record in story[0].records)
