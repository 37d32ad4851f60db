"""A second user of this machine, for tests of what it can reach; root alone can start its processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mpssl_fed.deployment.isolation import User
from tests.real.sites import NOBODY


def as_nobody(*command: object) -> int:
    """Run a command as that user and return its exit status."""
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *map(str, command)]
    return subprocess.run(words, capture_output=True, check=False).returncode


def open_the_way(folder: Path) -> None:
    """Let others pass through pytest's own folders down to ``folder``; with parallel workers there is one more of them.

    Skips the test where folders above those are closed, as the root of some containers is: nothing there can be reached, then.
    """
    for parent in (folder, *folder.parents):
        parent.chmod(0o755)
        if parent.name.startswith("pytest-of-"):
            break
    user = User.named(str(NOBODY))
    closed = next((parent for parent in reversed(folder.parents) if not user.may(parent, 1)), None)
    if closed is not None:
        pytest.skip(f"{closed} is closed to a second user")
