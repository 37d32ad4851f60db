"""Real child processes: whatever ends the parent, they end too, orphans in other sessions included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpssl_fed.deployment.processes import Children, marked

PYTHON = [sys.executable, "-S", "-c"]
GRANDCHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'], start_new_session=True)
time.sleep(600)
"""
PARENT = """
import sys
from pathlib import Path
from mpssl_fed.deployment.processes import Children
children = Children(Path(sys.argv[1]), *map(Path, sys.argv[3:]))
children.start("family", [sys.executable, "-S", "-c", sys.argv[2]])
print(children.token, flush=True)
sys.stdin.read()
"""


def gone(token: str, folder: Path, seconds: float = 10.0) -> bool:
    """Whether, within ``seconds``, no marked process and no folder is left."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if not marked(token) and not folder.exists():
            return True
        time.sleep(0.05)
    return False


def has(token: str, count: int) -> bool:
    """Whether, within some seconds, ``count`` processes carry the mark."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends and len(marked(token)) < count:
        time.sleep(0.05)
    return len(marked(token)) == count


def test_stop_ends_orphans_too(tmp_path: Path) -> None:
    children = Children(tmp_path / "home")
    children.start("family", [*PYTHON, GRANDCHILD])
    assert has(children.token, 2)
    os.kill(children.running["family"].pid, signal.SIGKILL)
    children.running["family"].wait()
    assert children.ended() == "family"
    assert len(marked(children.token)) == 1  # the orphan
    children.stop()
    children.stop()
    assert gone(children.token, tmp_path / "home", 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_guard_cleans_up_behind_a_killed_parent(tmp_path: Path, number: signal.Signals) -> None:
    home, sockets = tmp_path / "home", tmp_path / "sockets"
    sockets.mkdir()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(home), GRANDCHILD, str(sockets)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    token = parent.stdout.readline().strip()
    assert has(token, 2)
    parent.send_signal(number)
    parent.communicate()
    assert gone(token, home)
    assert gone(token, sockets)


def test_restart_starts_the_same_again(tmp_path: Path) -> None:
    children = Children(tmp_path / "home")
    children.start("writer", [*PYTHON, "import time; print('here', flush=True); time.sleep(600)"])
    first = children.running["writer"].pid
    children.restart("writer")
    assert children.running["writer"].pid != first
    ends = time.monotonic() + 10
    while "here" not in children.log_tail("writer") and time.monotonic() < ends:
        time.sleep(0.05)
    assert "here" in children.log_tail("writer")
    children.stop()


def test_temporary_files_of_children_go_with_the_folder(tmp_path: Path) -> None:
    children = Children(tmp_path / "home")
    code = "import tempfile; print(tempfile.mkdtemp())"
    made = Path(children.run([sys.executable, "-c", code], {}).stdout.strip())
    assert made.is_relative_to(tmp_path / "home")
    assert made.is_dir()
    children.stop()
    assert not made.exists()
