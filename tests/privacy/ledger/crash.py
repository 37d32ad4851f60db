"""Kill a process at every line that it runs in the ledger's code, one after the other.

python -m tests.privacy.ledger.crash FOLDER PREPARE ACTION: PREPARE makes FOLDER/0/l; for k = 1, 2, ... ACTION runs on a copy,
FOLDER/k, in a fork that dies at its k-th line; ends when one comes to its end. Prints how many died.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from mpssl_fed.privacy.ledger import Ledger, PlannedRun

HISTORY = {(1.5, 0.02): 4}
TOUCHING = ("/privacy/ledger_store.py", "/privacy/ledger_files.py", "/privacy/ledger_head.py", "/mpssl_fed/files.py")
"""Where the ledger's code touches a disk; other lines leave what the line before them left."""


def nothing(path: Path) -> None:
    """Prepare nothing."""


def make(path: Path) -> None:
    """Make a ledger with its head elsewhere."""
    Ledger.create(path, head=path.with_name("elsewhere") / "head")


def make_beside(path: Path) -> None:
    """Make a ledger with its head beside it."""
    Ledger.create(path)


def charged(path: Path) -> None:
    """Make a ledger that one round was charged to."""
    make_beside(path)
    ledger = Ledger(path)
    ledger.begin_run("chest", "run", PlannedRun({}, "c", {(1.5, 0.02): 99}, "end-to-end"), lambda s: "shared")
    reserve(path)


def reserve(path: Path) -> None:
    """Charge a round."""
    Ledger(path).reserve("chest", "run", 1, HISTORY, lambda spent: None)


def move_head(path: Path) -> None:
    """Let the head live elsewhere."""
    path.with_name("elsewhere").mkdir()
    Ledger(path).move_head(path.with_name("elsewhere") / "head")


def die_at(line: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that ends the process at the ``line``-th line of the ledger's modules."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(TOUCHING):
            return None
        if event == "line":
            left -= 1
            if left <= 0:
                os._exit(9)
        return trace

    return trace


def main(folder: Path, prepare: Callable[[Path], None], action: Callable[[Path], None]) -> int:
    """Return at how many lines the action died before it came to its end."""
    (folder / "0").mkdir()
    prepare(folder / "0" / "l")
    for line in range(1, 10_000):
        path = folder / str(line) / "l"
        shutil.copytree(folder / "0", path.parent)
        child = os.fork()
        if child == 0:
            sys.settrace(die_at(line))
            action(path)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return line - 1
    raise AssertionError


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), globals()[sys.argv[2]], globals()[sys.argv[3]]))
