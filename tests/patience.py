"""How long a test waits for what must happen: order is asserted, speed is not, so the limit only ends what hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 600.0
"""Far beyond what a machine with eight busy processes beside the suite needs; the whole suite is to end within 25 minutes."""


def wait_for(ready: Callable[[], object], what: str = "it") -> None:
    """Wait until ``ready()``; AssertionError after :data:`PATIENCE_S`."""
    ends = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < ends, f"{what} did not happen within {PATIENCE_S:g} s"
        time.sleep(0.05)
