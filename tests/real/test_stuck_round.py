"""A real daemon whose training never ends: the caller is told, what was reserved stays, and a new process takes its place."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from mpssl_fed.deployment.asking import health
from mpssl_fed.privacy.ledger import Ledger
from tests.patience import wait_for
from tests.real.sites import POLICY, RealSite, message, tiny, weights

PRIVACY = "privacy={epsilon: 2.0, public_size: 200, sample_rate: 0.1}"
CONFIG = tiny(PRIVACY)


def test_a_stuck_round_costs_itself_and_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = POLICY | {"scope": "end-to-end", "max_epsilon": 20.0, "public_size": 200, "metrics": []}
    site = RealSite(tmp_path, CONFIG, policy=policy, program="tests.real.stuck_daemon")
    once = tmp_path / "once"
    once.touch()
    monkeypatch.setenv("STUCK_ONCE", str(once))
    supervisor, heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), list[bytes]()
    supervisor.bind(str(tmp_path / "notify"))
    threading.Thread(target=_listen, args=(supervisor, heard), daemon=True).start()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    site.start("--trust-bundles")
    assert site.process is not None
    try:
        wait_for(lambda: len(heard) > 2, "two beats")
        assert sorted(heard[:3]) == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        assert health(site.state, site.socket) == "ok"
        assert site.train(message(CONFIG, weights(CONFIG)))[:2] == (409, "time-limit")
        assert not once.exists()
        wait_for(lambda: site.log.read_text(encoding="utf-8").count("is ready") == 2, "the new start")
        wait_for(site.up, "its socket")
        assert site.process.poll() is None  # the same process to whoever watches it
        assert site.status()["at_work"] == 0
        spent = Ledger(site.state / "ledger.sqlite").spent("digits").history
        assert sum(spent.values()) == CONFIG.federation.local_steps
        assert site.train(message(CONFIG, weights(CONFIG), run="another"))[0] == 200
        assert heard.count(b"READY=1") == 2
        site.stop()
        wait_for(lambda: heard[-1] == b"STOPPING=1", "word of its end")
    finally:
        site.stop()


def _listen(supervisor: socket.socket, heard: list[bytes]) -> None:
    """Keep what is said to a supervisor, as systemd reads it at once, until b"STOPPING=1"."""
    with supervisor:
        while not heard or heard[-1] != b"STOPPING=1":
            heard.append(supervisor.recv(99))
