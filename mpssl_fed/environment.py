"""Switches that keep Flower and Ray from phoning home, installing packages and hiding devices; read when they are imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SWITCHES: dict[str, str] = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Variable -> value. A variable that the user has set is left alone."""

AT_START = {name: os.environ.get(name) for name in SWITCHES}
"""What the shell had set when this process began, before :func:`apply`."""


def apply() -> None:
    """Set each switch in this process, hence in its children; must run before ``import flwr``."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)


def of_flower(home: Path) -> dict[str, str]:
    """Return what Flower's commands are started with: the switches, their files in ``home``, their helpers on the PATH."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**SWITCHES, "FLWR_HOME": str(home), "PATH": path}


def export_lines() -> str:
    """Return shell lines that set the switches: ``eval "$(mpssl-fed doctor --env)"``."""
    return "\n".join(f"export {name}={value}" for name, value in SWITCHES.items())
