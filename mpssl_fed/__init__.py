"""Federated learning with a public generator in place of unlabeled data (MP-SSL, arXiv 2309.16143).

The Python way in: ``run = mpssl_fed.simulate("demo", "federation.rounds=3")``, then ``mpssl_fed.load(run)``.
"""

from __future__ import annotations

from mpssl_fed.api import Run, load, simulate

__all__ = ["Run", "__version__", "load", "simulate"]


def __getattr__(name: str) -> str:
    """Return ``__version__``, read from the package's metadata when it is asked for; "unknown" where it is not installed."""
    if name != "__version__":
        raise AttributeError(f"module 'mpssl_fed' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mpssl-fed")
    except PackageNotFoundError:
        return "unknown"
