"""Federated learning with a public generator in place of unlabeled data (MP-SSL, arXiv 2309.16143).

The Python way in: ``run = mpssl_fed.simulate("demo", "federation.rounds=3")``, then ``mpssl_fed.load(run)``.
"""

from __future__ import annotations

from mpssl_fed.api import Run, load, simulate

__all__ = ["Run", "load", "simulate"]
