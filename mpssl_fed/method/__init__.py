"""MP-SSL: sources of synthetic images, unsupervised losses, latent meta-optimisation and the training step."""

from __future__ import annotations

from mpssl_fed.method.build import build_learner, needs_generator
from mpssl_fed.method.step import Learner
from mpssl_fed.method_version import METHOD_VERSION

__all__ = ["METHOD_VERSION", "Learner", "build_learner", "needs_generator"]
