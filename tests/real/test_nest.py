"""A deployment whose SuperNodes fork their ClientApps from nests, which are killed: its rounds go on by Flower's own command."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mpssl_fed.deployment.processes import marked
from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.runs.reader import read_history
from tests.patience import wait_for
from tests.real.sites import Serving, Story, tiny

pytestmark = pytest.mark.slow


def families(token: str) -> dict[int, list[int]]:
    """Return the nests of a deployment and what each has forked that still lives."""
    parents = {}
    for pid in marked(token):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if b"warm.nest" in Path(f"/proc/{pid}/cmdline").read_bytes():
                parents[pid] = int(state[1])
        except OSError:  # gone meanwhile
            continue
    superexecs = {pid for pid, parent in parents.items() if parent not in parents}
    found: dict[int, list[int]] = {pid: [] for pid, parent in parents.items() if parent in superexecs}
    for pid, parent in parents.items():
        if parent in found:
            found[parent].append(pid)
    return found


def test_rounds_with_nests_and_after_them(tmp_path: Path) -> None:
    config, run = tiny("federation={sites: 2, rounds: 4, local_steps: 2, join_deadline_s: 600, deadline_s: 600}"), tmp_path / "run"
    with Deployment(config, run, note=lambda _: None) as up:
        story, token = Story(), up.children.token
        serving = Serving(up, story)
        wait_for(lambda: any(families(token).values()) or serving.failed, "a ClientApp from a nest")
        wait_for(lambda: story.knows(2) or serving.failed, "round 2")
        nests = list(families(token))
        assert len(nests) == 2
        for nest in nests:
            os.kill(nest, signal.SIGKILL)
        serving.end()
        logs = "".join(up.children.log_tail(f"supernode-{site}", 10_000) for site in range(2))
    assert serving.failed == []
    assert [record.answered for record in read_history(run)[1:]] == [2, 2, 2, 2]
    assert "Traceback" not in logs
    assert not marked(token)
