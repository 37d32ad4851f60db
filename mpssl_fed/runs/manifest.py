"""What a run was made of and with: versions, seed, hardware, time."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from mpssl_fed.config import PROTOCOL_VERSION, Config
from mpssl_fed.method.freematch import momentum
from mpssl_fed.method_version import METHOD_VERSION

PACKAGES = ("mpssl-fed", "torch", "torchvision", "flwr", "ray", "opacus", "numpy", "safetensors", "pytorch-pretrained-biggan")


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the version of Python and of each installed package that a run depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def facts(config: Config) -> dict[str, Any]:
    """Return what is known of a run when it starts."""
    return {
        "created": now(),
        "seed": config.seed,
        "config_sha256": config.sha256(),
        "protocol": PROTOCOL_VERSION,
        "method_version": METHOD_VERSION,
        **_resolved(config),
        "backend": config.federation.backend,
        "threads": config.runtime.threads,
        "platform": platform.platform(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
    }


def _resolved(config: Config) -> dict[str, Any]:
    """Return what the method takes from the length of the run: FreeMatch's momentum, where it is used."""
    if config.method.loss != "freematch":
        return {}
    federation = config.federation
    return {"freematch_ema": momentum(config.method.freematch.ema, federation.rounds * federation.local_steps)}
