"""Who may not join a deployment, and what a run does when too few sites do: a stated end within a stated time."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed import environment
from mpssl_fed.deployment import certs
from mpssl_fed.deployment.rehearsal import Deployment, free_ports
from mpssl_fed.deployment.supernode import relaying, supernode_command
from mpssl_fed.errors import UserError
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.reader import read_manifest
from tests.patience import PATIENCE_S, wait_for
from tests.real.sites import tiny

CONFIG = tiny("federation={sites: 2, rounds: 1, local_steps: 2, min_sites: 2, join_deadline_s: 15, deadline_s: 30}")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(CONFIG, tmp_path_factory.mktemp("joining") / "run", note=lambda _: None) as deployment:
        yield deployment


def supernode(up: Deployment, name: str, key: Path, ca: Path) -> tuple[int, str]:
    """Run a SuperNode until it ends by itself; return its exit status and what it wrote."""
    (port,) = free_ports(1)
    command = supernode_command(up.address, ca, key, relaying(up.home / "0.sock"), port)
    up.children.start(name, command, environment.of_flower(up.home / "flower"))
    process = up.children.running[name]
    wait_for(lambda: process.poll() is not None, "the SuperNode's end")
    up.children.kill(name)
    return process.returncode, up.children.log_tail(name, 200)


def test_unregistered_key_is_turned_away(up: Deployment) -> None:
    private, _ = certs.make_site_key(up.home / "keys", "stranger")
    status, log = supernode(up, "stranger", private, up.home / "keys" / "ca.crt")
    assert status != 0
    assert "Failed to activate SuperNode" in log


def test_wrong_certificate_is_turned_away(up: Deployment, tmp_path: Path) -> None:
    certs.make_ca(tmp_path)
    status, log = supernode(up, "misled", up.home / "keys" / "site-0.key", tmp_path / "ca.crt")
    assert status != 0
    assert "CERTIFICATE_VERIFY_FAILED" in log


def test_one_key_serves_one_site(up: Deployment) -> None:
    """The second SuperNode with a key is turned away while the first is online; registering a key twice is an error."""
    status, log = supernode(up, "double", up.home / "keys" / "site-0.key", up.home / "keys" / "ca.crt")
    assert status != 0
    assert "Failed to activate SuperNode" in log
    with pytest.raises(UserError, match="was not registered"):
        up.flower.register(up.home / "keys" / "site-0.pub", "again")


def test_port_in_use_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match=r"--port \d+: in use"):
            free_ports(2, int(taken.getsockname()[1]))


@pytest.mark.parametrize("words", [("deploy", "demo"), ("server", "--keys", ".", "--database", "link.db")])
def test_port_in_use_ends_the_command(tmp_path: Path, words: tuple[str, ...]) -> None:
    """At once, with status 2 and the port's number; nothing has been written."""
    keys = [tmp_path / name for name in ("ca.crt", "server.crt", "server.key")]
    for file in keys:
        file.touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "mpssl_fed.cli", *words, "--port", port]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: --port {port}: in use")
    assert sorted(tmp_path.iterdir()) == keys


def test_keys_are_secret(up: Deployment) -> None:
    for key in (up.home / "keys").glob("*.key"):
        assert key.stat().st_mode & 0o077 == 0
    assert not (up.home / "keys" / "ca.key").exists()
    for log in up.children.logs.iterdir():
        assert b"PRIVATE KEY" not in log.read_bytes()
    assert up.home.stat().st_mode & 0o077 == 0


def test_too_few_sites_end_the_run(up: Deployment) -> None:
    up.children.kill("supernode-1")
    with pytest.raises(UserError, match=r"ended as 'finished:failed': [01] of at least 2 sites joined within"):
        up.serve(Progress())
    assert read_manifest(up.run)["status"] == "failed"
