"""`mpssl-fed watch` as a real process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class Watch:
    """``watch(folder, "--socket", place)`` -> the address that the command prints."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []

    def __call__(self, folder: Path, *words: object) -> str:
        command = [sys.executable, "-m", "mpssl_fed.cli", "watch", str(folder), *map(str, words)]
        self.running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        out = self.running[-1].stdout
        assert out is not None
        return out.readline().strip()

    def end(self) -> None:
        """End all that was started."""
        for process in self.running:
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self.running.clear()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Starts the command; what it started ends with the test."""
    found = Watch()
    yield found
    found.end()
