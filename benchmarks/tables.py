"""What the tables of benchmarks begin with: the machine, and the versions that were measured."""

from __future__ import annotations

import os

from mpssl_fed.runs.manifest import versions


def machine(beside: str) -> str:
    """Return a line with the cores, the load now, what is ``beside`` them, and the versions of what is installed."""
    here = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start{beside} {here}."
