"""Real site daemons for the tests: a few real digits on disk, a policy, a process, and messages such as a server sends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mpssl_fed import config as configs
from mpssl_fed.config import Config
from mpssl_fed.deployment import wire
from mpssl_fed.deployment.isolation import User
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.server.deployed_run import for_sites, with_task
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.rounds import Round
from tests.patience import PATIENCE_S, wait_for

TINY: dict[str, Any] = {
    "data": {"name": "mnist-5k", "labels_per_class": 2, "test_limit": 200},
    "method": {"name": "base"},
    "federation": {"sites": 2, "rounds": 3, "local_steps": 2, "join_deadline_s": PATIENCE_S, "deadline_s": PATIENCE_S},
}
POLICY: dict[str, Any] = {
    "dataset": "digits",
    "public_size": 100,
    "max_epsilon": 1.0,
    "delta": 1e-5,
    "scope": "off",
    "max_rounds": 5,
    "max_local_steps": 2000,
    "methods": ["base"],
    "metrics": ["loss"],
}
NOBODY = 65534
QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def tiny(*overrides: str) -> Config:
    """Return the config of a run of a second or so of training."""
    return with_task(configs.from_mapping(configs.override(TINY, overrides)))


def weights(config: Config) -> wire.Arrays:
    """Return the initial classifier of a run."""
    return {key: value.numpy() for key, value in parts.initial_classifier(config).shared_state().items()}


def message(config: Config, arrays: wire.Arrays, /, number: int = 1, run: str = "run1", **changes: Any) -> bytes:
    """Return the body of a train request, as the relay would send it, with some header fields changed."""
    text = for_sites(config).canonical_json()
    header = {"protocol": configs.PROTOCOL_VERSION, "run_id": run, "round": number, "config": text, "sha256": _sha256(text)}
    return wire.pack(arrays, "request", header | changes)


def alive(folder: Path) -> list[bytes]:
    """Return the command lines of what is still running of a :func:`deploy` in ``folder``."""
    mark, found = f"DEPLOY_TEST={folder}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes())
    return found


def deploy(folder: Path, federation: dict[str, Any], *words: str) -> subprocess.Popen[str]:
    """Start `mpssl-fed deploy` in ``folder``, with ``folder/tmp`` for its temporary files."""
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(TINY | {"federation": federation}), encoding="utf-8")
    command = [sys.executable, "-m", "mpssl_fed.cli", "deploy", "config.yaml", *words]
    environment = {**os.environ, **QUIET, "TMPDIR": str(folder / "tmp"), "DEPLOY_TEST": str(folder)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


class Story(Progress):
    """The rounds so far."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def round(self, record: Round) -> None:
        self.records.append(record.to_json())

    def knows(self, number: int) -> bool:
        """Whether round ``number`` is over."""
        return any(record["round"] == number for record in self.records)


class Serving(threading.Thread):
    """A deployment's run, served beside the test; ``failed`` holds the UserError that it ended with, if any."""

    def __init__(self, up: Deployment, progress: Progress) -> None:
        super().__init__()
        self.up, self.progress, self.failed = up, progress, list[UserError]()
        self.start()

    def run(self) -> None:
        """Serve."""
        try:
            self.up.serve(self.progress)
        except UserError as error:
            self.failed.append(error)

    def end(self) -> None:
        """Wait for the end; AssertionError when it does not come within the tests' patience."""
        self.join(PATIENCE_S)
        assert not self.is_alive()


@contextmanager
def open_folder() -> Iterator[Path]:
    """Yield a new folder that a second user reaches; skip the test where those above it are closed, as some containers' root is."""
    with tempfile.TemporaryDirectory(prefix="mpssl-fed-tests-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        user = User.named(str(NOBODY))
        closed = next((parent for parent in reversed(folder.parents) if not user.may(parent, 1)), None)
        if closed is not None:
            pytest.skip(f"{closed} is closed to a second user")
        yield folder


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A real file system of ``size`` (``64k``, ``1m``) at ``folder``; the test is skipped where mounting is not permitted."""
    folder.mkdir(mode=0o700)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Fill the disk of ``folder`` with ``folder/ballast`` to the last byte."""
    with open(folder / "ballast", "wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(1024))


@dataclass
class RealSite:
    """A site in ``folder``: data, policy and state of its owner, all 0700, and the daemon's process."""

    folder: Path
    config: Config
    number: int = 0
    policy: dict[str, Any] = field(default_factory=lambda: dict(POLICY))
    program: str = "mpssl_fed.cli"
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.private = self.folder / "private"
        self.private.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state, self.run = self.private / "state", self.folder / "run"
        self.run.mkdir(exist_ok=True)
        self.run.chmod(0o755)
        self.socket = self.run / "site.sock"
        self.listing = write_share(self.private / "data", self.config, self.number)
        self.policy_file = self.private / "policy.yaml"
        self.policy_file.write_text(yaml.safe_dump(self.policy), encoding="utf-8")
        self.log = self.folder / "daemon.log"

    def start(self, *more: str, wait: bool = True) -> None:
        """Start the daemon; with its socket open to the user ``nobody``, unless told otherwise."""
        assert self.config.data.task is not None
        options = more or ("--supernode-user", str(NOBODY), "--group", str(NOBODY))
        command = [
            sys.executable, "-m", self.program, "site", "--name", f"site-{self.number}", "--number", str(self.number),
            "--data", str(self.listing), "--classes", ",".join(self.config.data.task.classes), "--channels", "1",
            "--policy", str(self.policy_file), "--state", str(self.state), "--socket", str(self.socket), *options,
        ]  # fmt: skip
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **QUIET}, start_new_session=True)
        if wait:
            wait_for(self.up, "the daemon's start")

    def up(self) -> bool:
        """Whether the daemon answers."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
        try:
            return wire.call(self.socket, "GET", wire.CARD)[0] == 200
        except OSError:
            return False

    def train(self, body: bytes, target: str = wire.TRAIN) -> tuple[int, Any, dict[str, float]]:
        """Return (status, weights or, of an evaluation, its table, or a code, metrics)."""
        status, answer = wire.call(self.socket, "POST", target, body, timeout=PATIENCE_S)
        if status != 200:
            return status, json.loads(answer)["code"], {}
        arrays, metrics = wire.unpack(answer, "metrics")
        return status, arrays, json.loads(metrics)

    def status(self) -> dict[str, Any]:
        """Return what the owner sees."""
        found: dict[str, Any] = json.loads(wire.call(self.socket, "GET", wire.STATUS)[1])
        return found

    def kill(self) -> None:
        """Kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the daemon, politely and then not."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()

    close = stop


def equal(one: wire.Arrays, other: wire.Arrays) -> bool:
    """Whether two sets of weights are the same bits."""
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
