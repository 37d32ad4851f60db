"""Simulations where a system lacks what only Unix has, locks that the filelock package takes, and one sentence for deployment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mpssl_fed import flock
from mpssl_fed.errors import UserError
from mpssl_fed.runs.lock import holding
from tests.patience import PATIENCE_S
from tests.runs.test_lock import another_process

ELSEWHERE = """
import os, signal, socket, sys
import platformdirs  # asks here, not on Windows, who the user is
for name in ("fcntl", "pwd", "grp", "termios", "resource", "syslog"):
    sys.modules[name] = None
for name in "O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_DIRECTORY geteuid getuid pread pwrite killpg chown fchmod".split():
    delattr(os, name)
del signal.SIGKILL, signal.SIGHUP, socket.AF_UNIX
import mpssl_fed.api
from mpssl_fed.cli import main
sys.argv = ["mpssl-fed", "simulate", *sys.argv[1:]]
main()
"""
"""A program that simulates on a system which has no more than Windows has."""

WORDS = ("method.name=base", "federation.sites=2", "federation.rounds=1", "federation.local_steps=1", "data.labels_per_class=1")


def test_a_simulation_needs_nothing_that_is_unix_s_alone(tmp_path: Path) -> None:
    words = ["demo", *WORDS, "model.name=pixels", "--output", str(tmp_path / "run")]
    home = {**os.environ, "HOME": str(tmp_path)}
    program = [sys.executable, "-c", ELSEWHERE, *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S, env=home, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "round 1/1" in done.stdout
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_filelock_package_keeps_a_second_writer_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flock, "fcntl", None)
    with another_process(tmp_path) as process:
        with pytest.raises(UserError, match="another run or study is writing there"), holding(tmp_path):
            pass
        process.kill()
        process.wait()
    with holding(tmp_path):  # its process gone, the lock is, too
        pass


@pytest.mark.parametrize("words", [("deploy", "demo"), ("certs", "ca", "keys"), ("site", "status"), ("site", "--data", ".")])
def test_deployment_elsewhere_is_refused_in_one_sentence(
    words: tuple[str, ...], cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    status, _, error = cli(*words)
    assert status == 2
    assert error.startswith("error: deployment needs Linux")
    assert len(error.splitlines()) == 1
