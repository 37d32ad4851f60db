"""Which reads of a site's images a run makes: the one answer by which they are planned, charged and built."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from mpssl_fed.config import Config
from mpssl_fed.config.learning import Method
from mpssl_fed.errors import UserError
from mpssl_fed.method.losses import LOSSES
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.models.backbones import BODIES


@dataclass(frozen=True)
class Reads:
    """What is read beside the supervised gradient of each step.

    unsupervised: the loss on synthetic images reaches something that is trained; else the run equals ``base`` and nothing more is
    read. meta: the validation gradient, and feature: the mean feature, with each latent meta-optimisation; labels: the foundation
    probabilities, once a run.
    """

    unsupervised: bool
    meta: bool
    feature: bool
    labels: bool


def reads(config: Config, trains_body: bool | None = None) -> Reads:
    """Return what a run of ``config`` reads. trains_body: of its classifier, where that is at hand; by default of one that is built
    to be asked. UserError for a loss or model that does not exist."""
    method = config.method
    reached = method.loss != "none" and (_reaches_head(method) or (_trains_body(config) if trains_body is None else trains_body))
    lmo = reached and method.source == "meta-optimised" and method.lambda_ > 0
    return Reads(reached, lmo, lmo and bool(method.gap.weight), reached and method.source == "pseudo-label")


def _reaches_head(method: Method) -> bool:
    """Ask the loss itself; how many classes there are is nothing to it."""
    return bool(LOSSES[str(method.loss)](method, 2).reaches_head)


def _trains_body(config: Config) -> bool:
    model, task = config.model, config.data.task
    if model.trainable == "head":
        return False
    size = task.size if task else config.data.size or 32
    return _built_trains(model.name, (task.channels,) if task else (3, 1), size, model.norm, model.trainable)


@lru_cache(maxsize=64)
def _built_trains(name: str, channels: tuple[int, ...], size: int, norm: str, trainable: str) -> bool:
    """Ask a body itself. Without a task the number of channels is not known: some body may take one of them alone."""
    for number in channels:
        try:
            with torch.device("cpu" if BODIES.is_plugin(name) else "meta"):
                return build_classifier(Architecture(name, ("0", "1"), number, size, norm, trainable)).trains_body
        except UserError:
            if number == channels[-1]:
                raise
    raise AssertionError("no number of channels")
