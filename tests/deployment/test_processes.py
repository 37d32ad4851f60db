"""Real child processes: whatever ends the parent, they end too, orphans in other sessions included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mpssl_fed.deployment.processes import Children, marked
from tests.patience import wait_for

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


def gone(token: str, folder: Path) -> bool:
    """Whether no marked process and no folder is left."""
    return not marked(token) and not folder.exists()


def wait_for_family(token: str) -> None:
    """Wait until child and grandchild carry the mark."""
    wait_for(lambda: len(marked(token)) >= 2, "the grandchild")
    assert len(marked(token)) == 2


def test_stop_ends_orphans_too(tmp_path: Path) -> None:
    children = Children(tmp_path / "home")
    children.start("family", [*PYTHON, GRANDCHILD])
    wait_for_family(children.token)
    os.kill(children.running["family"].pid, signal.SIGKILL)
    children.running["family"].wait()
    assert children.ended() == "family"
    assert len(marked(children.token)) == 1  # the orphan
    children.stop()
    children.stop()
    assert gone(children.token, tmp_path / "home")


DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


def test_control_c_while_a_deaf_process_is_waited_for_brings_its_kill_forward(tmp_path: Path) -> None:
    children = Children(tmp_path / "home")
    children.start("deaf", [*PYTHON, DEAF])
    wait_for(lambda: children.log_tail("deaf") == "deaf", "the child's start")
    threading.Timer(0.2, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    children.end(grace_s=600)  # KeyboardInterrupt does not pass: what is to be kept of the sites is kept after it
    assert not marked(children.token)
    assert children.folder.is_dir()
    children.stop()
    assert gone(children.token, tmp_path / "home")


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
    wait_for_family(token)
    parent.send_signal(number)
    parent.communicate()
    wait_for(lambda: gone(token, home) and gone(token, sockets), "the end of every process and folder")


def test_restart_starts_the_same_again(tmp_path: Path) -> None:
    children = Children(tmp_path / "home")
    children.start("writer", [*PYTHON, "import time; print('here', flush=True); time.sleep(600)"])
    first = children.running["writer"].pid
    children.restart("writer")
    assert children.running["writer"].pid != first
    wait_for(lambda: "here" in children.log_tail("writer"), "a line in the log")
    children.stop()


def test_temporary_files_of_children_go_with_the_folder(tmp_path: Path) -> None:
    children = Children(tmp_path / "home")
    code = "import tempfile; print(tempfile.mkdtemp())"
    made = Path(children.run([sys.executable, "-c", code], {}).stdout.strip())
    assert made.is_relative_to(tmp_path / "home")
    assert made.is_dir()
    children.stop()
    assert not made.exists()
