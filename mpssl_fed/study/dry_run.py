"""A study without its data: every object of every kind of cell is built, on torch's meta device, and its cost is estimated.

Decodes no data set, and reads no downloaded weights and no network; what of them is missing is said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import DATASETS, Images
from mpssl_fed.data.partition import choose_labelled, partition
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError
from mpssl_fed.federation.server.strategy import STRATEGIES
from mpssl_fed.generators.base import Generator, load_generator
from mpssl_fed.generators.biggan import PUBLISHED, BigGANGenerator, cache_folder
from mpssl_fed.method import Learner, build_learner, needs_generator
from mpssl_fed.method.build import DEFAULT_BATCH
from mpssl_fed.method.closed_form import ClosedForm
from mpssl_fed.method.meta_optimised import MetaOptimised
from mpssl_fed.method.sources import Random
from mpssl_fed.models import Classifier, build_classifier
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.study.cell_key import differing
from mpssl_fed.study.grid import Cell
from mpssl_fed.study.known_data import KnownData, known_data

MIB = 2**20
DRAWN = 32
"""Latents that are really drawn; what more of them take is in proportion."""
STEM = [[False, 16, 16], [True, 16, 16], [False, 16, 16], [True, 16, 8], [False, 8, 8]]
TAIL = [[True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 2], [True, 2, 1]]
LAYERS = {
    "biggan-deep-128": STEM + TAIL,
    "biggan-deep-256": [*STEM, [True, 8, 8], [False, 8, 8], *TAIL],
    "biggan-deep-512": [*STEM, [True, 8, 8], [False, 8, 8], *TAIL, [False, 1, 1], [True, 1, 1]],
}
"""[up-sample, width in, width out] of the published generators, attention at 64 px: arXiv 1809.11096, appendix B."""


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


def missing(config: Config) -> tuple[str, ...]:
    """Return, in words, the files that a run of ``config`` needs and that are not there."""
    words = []
    data, generator, method = config.data, config.generator, config.method
    if data.root is not None and not expanded(data.root).exists():
        words.append(f"data.root {data.root}" + ("" if data.name == "image-folder" else f" (mpssl-fed fetch {data.name})"))
    if data.root is None and data.name == "image-folder":
        words.append("data.root, the folder of the images")
    if _uses_generator(config) and generator.name in PUBLISHED:
        folder = Path(generator.path) if generator.path else cache_folder(generator.name)
        if not (folder / "pytorch_model.bin").is_file():
            words.append(f"weights of {generator.name} (mpssl-fed fetch {generator.name})")
    if method.source == "pseudo-label" and generator.name in PUBLISHED and not Path(generator.foundation or "").is_file():
        words.append(f"p-ssl's ImageNet classifier, generator.foundation {generator.foundation} (mpssl-fed fetch resnet18)")
    if config.model.pretrained is not None and not Path(config.model.pretrained).is_file():
        words.append(f"model.pretrained {config.model.pretrained} (mpssl-fed fetch {config.model.name})")
    return tuple(words)


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
    smallest = _deal(config, data)
    if config.privacy.on:
        plan_for(config)
    size = config.data.size or data.size
    classes = tuple(map(str, range(data.classes)))
    classifier = _classifier(config.model.name, classes, data.channels, size, config.model.norm, config.model.trainable)
    generator = _generator(config) if _uses_generator(config) else None
    learner = _learner(config, classifier, generator, data, size)
    latents = learner.source.latents if isinstance(learner.source, MetaOptimised) else None
    steps = config.private_rounds * config.federation.local_steps
    return Estimate(
        classifier=_entries(classifier),
        latents=sum(p.numel() for p in latents.parameters()) if latents else 0,
        generator=_entries(generator),
        steps=steps * config.federation.sites,
        images=_images(config, learner, steps),
        memory=(data.stored_bytes(size) + 4 * _entries(generator) + _training(config, learner, min(smallest, DEFAULT_BATCH))) / MIB,
    )


def _deal(config: Config, data: KnownData) -> int:
    """Choose and deal labels as a run would, and return the smallest site's number of them."""
    y = data.labels()
    per_class = config.data.labels_per_class
    if per_class is not None and config.data.labels_over == "site":
        per_class *= config.federation.sites
    chosen = choose_labelled(y, per_class, config.data.label_fraction, config.seed)
    section = config.data.partition
    options = section.model_dump(exclude={"name", "options"}, exclude_none=True) | section.options
    sizes = [len(part) for part in partition(y[chosen], config.federation.sites, section.name, config.seed, **options)]
    if not min(sizes) and not config.privacy.on:
        raise UserError(f"data.partition={section.name}: a site would hold no labelled image; lower federation.sites")
    if config.method.source == "real" and len(chosen) == len(y):
        raise UserError("method.source=real: every image would be labelled, none is left unlabeled")
    return min(sizes)


def _uses_generator(config: Config) -> bool:
    return needs_generator(config) or config.warm_start.part != "none"


@cache
def _classifier(name: str, classes: tuple[str, ...], channels: int, size: int, norm: str, trainable: str) -> Classifier:
    return build_classifier(name, classes, channels, size, norm, trainable).to("meta")


def _generator(config: Config) -> Generator:
    section = config.generator
    return _meta_generator(section.name, section.path, section.truncation)


@cache
def _meta_generator(name: str, path: str | None, truncation: float) -> Generator:
    if name not in PUBLISHED:
        return load_generator(name, path, truncation).to("meta")
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig

    with torch.device("meta"):
        model = BigGAN(BigGANConfig.from_dict({"layers": LAYERS[name], "output_dim": int(name.rpartition("-")[2])}))
    generator = BigGANGenerator(name, model, tuple(map(str, range(1000))), truncation)
    return generator.to("meta").eval().requires_grad_(False)


def _learner(config: Config, classifier: Classifier, generator: Generator | None, data: KnownData, size: int) -> Learner:
    """Return the site's learner around two images per class that no one has seen."""
    y = torch.arange(data.classes).repeat(2)
    blank = Images(torch.zeros(len(y), data.channels, size, size, dtype=torch.uint8), y)
    method = config.method
    if method.source in ("oracle", "anti-oracle") or (method.source == "pseudo-label" and config.generator.name in PUBLISHED):
        # The names of classes are not known here, and the foundation classifier may not be there yet: built like a random source.
        method = method.model_copy(update={"source": "random"})
    config = config.model_copy(update={"method": method.model_copy(update={"relevant": {}})})
    return build_learner(config, classifier, generator, blank, flip=data.flip, site=0, unlabeled=blank)


def _images(config: Config, learner: Learner, steps: int) -> int:
    """Return the images that go through the generator in a run: at the sites, for their shared anchor set, and at the server."""
    method, federation, warm = config.method, config.federation, config.warm_start
    own = 0
    if isinstance(learner.source, Random) and steps:
        own = method.bank or math.ceil(steps / method.refresh_every) * method.batch
    if isinstance(learner.source, MetaOptimised) and method.lambda_ > 0 and steps:
        idle = config.lambda_at(0) == 0  # at its first step
        own += (math.ceil(steps / method.lmo_every) - idle) * method.lmo_batch
    own += _probed(config, learner) * method.latent.probes if steps else 0
    anchor = federation.anchor.images if federation.anchor.weight > 0 and steps else 0
    stages = {"none": 0, "body": 1, "head": 1, "both": 2}[warm.part]
    return own * federation.sites + anchor + stages * warm.steps * warm.batch


def _probed(config: Config, learner: Learner) -> int:
    """Return how many generator classes the closed form looks at in a run: all of them in each round, or until the first LMO."""
    method, rounds = config.method, config.private_rounds
    if isinstance(learner.source, MetaOptimised) and method.latent.init == "closed-form":
        first = next(
            (t for t in range(0, rounds * config.federation.local_steps, method.lmo_every) if config.lambda_at(t) > 0), None
        )
        rounds = rounds if first is None else first // config.federation.local_steps + 1
        return rounds * len(learner.source.generator.classes)
    return rounds * len(learner.source.generator.classes) if isinstance(learner.source, ClosedForm) else 0


def _training(config: Config, learner: Learner, batch: int) -> float:
    """Return the bytes of weights, gradients and optimiser state, and of what the larger graph of a step keeps for its gradient."""
    classifier, method, source = learner.classifier, config.method, learner.source
    theta = sum(p.numel() for p in classifier.theta().values())
    moments = {"sgd": 0, "momentum": 1, "adamw": 2}[config.optim.name]
    weights = 4 * (_entries(classifier) + (2 + moments) * theta)  # the start of the round and a gradient beside the moments
    shape = (classifier.channels, classifier.size, classifier.size)
    with torch.enable_grad():
        graphs = [_kept(lambda: classifier(torch.empty(batch, *shape, device="meta")))]
        if source is not None:
            graphs.append(_kept(lambda: classifier(torch.empty(2 * method.batch, *shape, device="meta"))))
        if isinstance(source, MetaOptimised):
            n = method.micro_batch or method.lmo_batch
            few = min(n, DRAWN)
            draw = source.draw(few, torch.Generator().manual_seed(0))
            views = _kept(lambda: classifier(torch.empty(2 * n, *shape, device="meta", requires_grad=True)))
            drawn = _kept(lambda: source.from_latents(draw)) * n // few
            graphs.append(drawn + 3 * views)  # the second derivative keeps the first's graph too
    return weights + max(graphs)


def _kept(forward: Callable[[], Tensor]) -> int:
    """Return the bytes that autograd keeps of a forward pass for its gradient."""
    sizes: dict[int, int] = {}
    held = []

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        return x

    with _saving(pack):
        held.append(forward())
    return sum(sizes.values())


@contextmanager
def _saving(pack: Callable[[Tensor], Tensor]) -> Iterator[None]:
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield


def _entries(module: Any) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())
