"""Switches that keep Flower and Ray from phoning home, installing packages and hiding devices; read when they are imported."""

from __future__ import annotations

import importlib.util
import os
import shlex
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


LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""This machine, as our own commands name it; no proxy reaches it."""


def apply() -> None:
    """Set each switch in this process, hence in its children, and keep loopback from proxies; must run before ``import flwr``."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    os.environ.update(past_proxies())


def of_flower(home: Path, server: str = "") -> dict[str, str]:
    """Return what Flower's commands are started with: the switches, their files in ``home``, their helpers on the PATH.

    server: the ``HOST:PORT`` that they talk to. Towards loopback they know of no proxy at all, beyond it of those that Flower's
    HTTP client can use: the name of another kind stops it even where it need not use one.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    here = server.rpartition(":")[0].strip("[]") in LOOPBACK
    proxies = dict.fromkeys((name for name in _proxies() if here or not _usable(os.environ[name])), "")
    return {**SWITCHES, "FLWR_HOME": str(home), "PATH": path, **past_proxies(), **proxies}


def past_proxies() -> dict[str, str]:
    """Return ``no_proxy`` and ``NO_PROXY`` with loopback added; empty where no proxy is set, or all is excepted already."""
    if not _proxies():
        return {}
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    missing = [] if "*" in names else [name for name in LOOPBACK if name not in names]
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join([*names, *missing]))


def export_lines() -> str:
    """Return shell lines that set the switches: ``eval "$(mpssl-fed doctor --env)"``."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in {**SWITCHES, **past_proxies()}.items())


def _proxies() -> list[str]:
    """Return the variables that name a proxy for some or all addresses (``http_proxy``, ``ALL_PROXY``, ``grpc_proxy``, ...)."""
    return [name for name, value in os.environ.items() if name.lower().endswith("_proxy") and name.lower() != "no_proxy" and value]


def _usable(proxy: str) -> bool:
    """Whether httpx, which Flower uses, takes this proxy; SOCKS needs a package of its own."""
    kind = proxy.partition("://")[0].lower() if "://" in proxy else "http"
    return kind in ("http", "https") or (kind in ("socks5", "socks5h") and importlib.util.find_spec("socksio") is not None)
