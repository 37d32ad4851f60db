"""Child processes that end with their parent, however it ends: each carries a mark in its environment and is found by it.

Flower starts grandchildren in sessions of their own and leaves orphans that go on training, so a process group is not enough.
Imports the standard library alone: the guard that outlives its parent is this module.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MARK = "MPSSL_FED_PROCESSES"
GRACE_S = 3.0


class Children:
    """The processes of one deployment; their output goes to ``logs/NAME.log``. ``folder`` is deleted when all is over.

    A guard process waits for the end of this one. Whatever ends it, kill -9 included, the guard kills what is left and deletes
    the folder, and ``others`` that belong to the deployment.
    """

    def __init__(self, folder: Path, *others: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(12)
        self.logs, self.temporary = folder / "logs", folder / "tmp"
        for made in (self.logs, self.temporary):
            made.mkdir(parents=True, exist_ok=True)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._how: dict[str, tuple[Sequence[str], Mapping[str, str] | None, Path | None]] = {}
        guard = [sys.executable, "-S", str(Path(__file__)), self.token, *map(str, (folder, *others))]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True, env={"PATH": os.defpath})

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        """Start ``command`` in a session of its own, so that Ctrl-C in the terminal reaches this process alone."""
        self._how[name] = (command, env, cwd)
        with open(self.logs / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **(env or {}), **self._own}, cwd=cwd or self.folder,
            )  # fmt: skip
        pipe = self._guard.stdin
        assert pipe is not None
        pipe.write(f"{self.running[name].pid}\n".encode())
        pipe.flush()

    def run(self, command: Sequence[str], env: Mapping[str, str], timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a short command to its end and return it; subprocess.TimeoutExpired when it takes longer."""
        environment = {**os.environ, **env, **self._own}
        return subprocess.run(
            list(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
            env=environment, cwd=self.folder, start_new_session=True,
        )  # fmt: skip

    @property
    def _own(self) -> dict[str, str]:
        """What every child gets: the mark, and a place for temporary files that goes away with the folder."""
        return {MARK: self.token, "TMPDIR": str(self.temporary)}

    def ended(self) -> str | None:
        """Return the name of a process that is no longer running, None while all run."""
        return next((name for name, child in self.running.items() if child.poll() is not None), None)

    def restart(self, name: str) -> None:
        """Start a process anew as it was started before; what is left of it is killed first."""
        if name in self.running:
            self.kill(name)
        self.start(name, *self._how[name])

    def kill(self, name: str) -> None:
        """Kill one process and what it started in its session."""
        child = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def log_tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines that a process wrote."""
        path = self.logs / f"{name}.log"
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]) if path.is_file() else ""

    def stop(self) -> None:
        """End every process and delete the folder. May be called twice."""
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()
            self._guard.wait()

    def end(self, grace_s: float = GRACE_S) -> None:
        """End every process, first politely, then by kill, which Ctrl-C brings forward; the folder stays."""
        for child in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        ends = time.monotonic() + grace_s
        with contextlib.suppress(KeyboardInterrupt):  # whoever calls still has to keep what the sites must not lose
            while time.monotonic() < ends and any(child.poll() is None for child in self.running.values()):
                time.sleep(0.05)
        for name in list(self.running):
            self.kill(name)
        kill_marked(self.token)


def kill_marked(token: str) -> None:
    """Kill every process that carries the mark, until none is left: a dying one may just have started another."""
    for _ in range(100):
        found = marked(token)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def marked(token: str) -> list[int]:
    """Return the living processes of this user whose environment carries the mark (Linux; empty without /proc)."""
    want = f"{MARK}={token}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if want in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def _guard(token: str, folder: str, *others: str) -> None:
    """Wait for the parent's end, reading its children's process ids meanwhile; then clean up behind it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = [int(line) for line in sys.stdin]
    if Path(folder).is_dir():  # an orderly parent has deleted it, and its children are gone
        for group in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
    kill_marked(token)
    for gone in (folder, *others):
        shutil.rmtree(gone, ignore_errors=True)


if __name__ == "__main__":
    _guard(*sys.argv[1:])
