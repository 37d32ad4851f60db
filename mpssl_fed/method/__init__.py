"""MP-SSL: sources of synthetic images, unsupervised losses, latent meta-optimisation and the training step."""

from __future__ import annotations

from mpssl_fed.method.build import build_learner, needs_generator
from mpssl_fed.method.step import Learner

METHOD_VERSION = 2
"""Raised when the same config may give other numbers; committed result rows carry it."""

__all__ = ["METHOD_VERSION", "Learner", "build_learner", "needs_generator"]
