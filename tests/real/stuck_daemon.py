"""``mpssl-fed`` whose first training step, while the file STUCK_ONCE names is there, takes it away and never ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from mpssl_fed.cli import main
from mpssl_fed.deployment.worker import Worker
from mpssl_fed.method import Learner

step, begin, once, workers = Learner.step, Worker.__init__, Path(os.environ["STUCK_ONCE"]), list[Worker]()


def seen(self: Worker, limit_s: float) -> None:
    """Remember the worker."""
    begin(self, limit_s)
    workers.append(self)


def stuck(self: Learner, t: int) -> dict[str, float]:
    """Stand for a driver or a file system that never answers, and let its time be up."""
    if once.exists():
        once.unlink()
        workers[0].limit_s = workers[0].grace_s = 0.1
        threading.Event().wait()
    return step(self, t)


if __name__ == "__main__":
    Learner.step, Worker.__init__ = stuck, seen  # type: ignore[assignment,method-assign]
    main()
