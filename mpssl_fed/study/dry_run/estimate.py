"""A study without its data: every object of every kind of cell is built, on torch's meta device, and its cost is estimated.

Decodes no data set, and reads no downloaded weights and no network; what of them is missing is said.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import DATASETS
from mpssl_fed.federation.server.strategy import STRATEGIES
from mpssl_fed.method.build import DEFAULT_BATCH
from mpssl_fed.method.meta_optimised import MetaOptimised
from mpssl_fed.models import Architecture
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.study.cell_key import differing
from mpssl_fed.study.dry_run.built import classifier_of, generator_of, learner_of, smallest_share
from mpssl_fed.study.dry_run.images import generated_images
from mpssl_fed.study.dry_run.known_data import known_data
from mpssl_fed.study.dry_run.memory import entries, training_bytes
from mpssl_fed.study.dry_run.missing import missing
from mpssl_fed.study.grid import Cell

MIB = 2**20


@dataclass(frozen=True)
class Estimate:
    """What one run of a cell takes. Parameters by part; ``images`` go through the generator in a run, all sites together; memory
    in MiB is of one process, images held included; ``missing``: what must be put in place first."""

    classifier: int
    latents: int
    generator: int
    steps: int
    images: int
    memory: float
    missing: tuple[str, ...] = ()


def estimate(cell: Cell) -> Estimate | None:
    """Build what the cell's run would build and return its estimate; None where only files that are not here tell the classes.

    Raises UserError for what would fail in the run: an unknown name, too few labels, a partition that leaves a site empty.
    """
    if known_data(cell.config) is None:
        DATASETS[cell.config.data.name.partition("/")[0]]  # an unknown name is refused with its nearest
        return None
    kind = differing(cell.config)
    kind.pop("seed", None)
    kind.get("method", {}).pop("augment", None)
    return replace(
        _estimate(json.dumps(kind, sort_keys=True), cell.config.model_copy(update={"seed": 0})), missing=missing(cell.config)
    )


@cache
def _estimates() -> dict[str, Estimate]:
    return {}


def _estimate(kind: str, config: Config) -> Estimate:
    known = _estimates()
    if kind not in known:
        known[kind] = _build(config)
    return known[kind]


def _build(config: Config) -> Estimate:
    data = known_data(config)
    assert data is not None
    if config.data.held_out == "validation":
        data = data.validation_split(config.data.held_out_fraction)
    STRATEGIES[config.federation.strategy.name]
    smallest = smallest_share(config, data)
    if config.privacy.on:
        plan_for(config)
    size = config.data.size or data.size
    classes = tuple(map(str, range(data.classes)))
    model = config.model
    classifier = classifier_of(Architecture(model.name, classes, data.channels, size, model.norm, model.trainable))
    generator = generator_of(config) if config.draws else None
    learner = learner_of(config, classifier, generator, data, size)
    latents = learner.source.latents if isinstance(learner.source, MetaOptimised) else None
    steps = config.private_rounds * config.federation.local_steps
    return Estimate(
        classifier=entries(classifier),
        latents=sum(p.numel() for p in latents.parameters()) if latents else 0,
        generator=entries(generator),
        steps=steps * config.federation.sites,
        images=generated_images(config, learner, steps),
        memory=(data.stored_bytes(size) + 4 * entries(generator) + training_bytes(config, learner, min(smallest, DEFAULT_BATCH)))
        / MIB,
    )
