"""No fourth way out: with the releases replayed from a tape, nothing a site sends or keeps depends on its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch

from mpssl_fed import config as configs
from mpssl_fed.config import Config
from mpssl_fed.config.learning import CONTROLS, METHODS
from mpssl_fed.data.datasets import Images
from mpssl_fed.generators import load_generator
from mpssl_fed.generators.base import Generator
from mpssl_fed.method import build_learner, needs_generator
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.privacy.build import private_data
from mpssl_fed.privacy.noise import FastNoise, SecureNoise, Tape
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.releases import DPPrivateData, LabelledStepPrivateData
from tests.privacy.release_cases import SIZE, dataset, digits

PRIVATE_METHODS = [name for name in METHODS if METHODS[name][0] != "real" and name not in CONTROLS]  # those are base
CLOCKS = ("train_s", "generate_s")


@lru_cache
def generator() -> Generator:
    return load_generator("glyphs-digits")


@dataclass
class Trace:
    """All that crosses the boundary of a site's training, or stays for the next round."""

    weights: list[dict[str, torch.Tensor]]
    state: dict[str, torch.Tensor]
    metrics: list[dict[str, float]]
    charges: list[tuple[str, float, float]]

    def differs(self, other: Trace) -> list[str]:
        """Return what is not bit for bit the same."""
        found = [name for name in ("metrics", "charges") if getattr(self, name) != getattr(other, name)]
        for name, mine, others in [("state", [self.state], [other.state]), ("weights", self.weights, other.weights)]:
            for one, two in zip(mine, others, strict=True):
                if one.keys() != two.keys() or not all(torch.equal(one[key], two[key]) for key in one):
                    found.append(name)
        return found


def config_of(method: str, *overrides: str) -> Config:
    return configs.from_mapping(
        configs.override(
            {
                "method": {"name": method, "lmo_every": 2, "batch": 8, "lmo_batch": 6, "warmup": 0.0},
                "federation": {"rounds": 2, "local_steps": 2},
                "privacy": {"epsilon": 8.0, "delta": 1e-4, "public_size": 100, "sample_rate": 0.15},
            },
            overrides,
        )
    )


def train(config: Config, images: Images, tape: Any, spoil: bool = False) -> Trace:
    """Train two rounds of one site whose releases come from ``tape``; ``spoil``: some pixels are NaN."""
    charges: list[tuple[str, float, float]] = []
    classifier = build_classifier(
        Architecture(config.model.name, dataset().classes, 1, SIZE, trainable=config.model.trainable), seed=config.seed
    )
    private = private_data(
        config,
        Parts(images, classifier, None, False),
        plan=plan_for(config),
        charge=lambda *release: charges.append(release),
        noise=tape,
    )
    if spoil:
        inner = private if isinstance(private, DPPrivateData) else private._released  # type: ignore[attr-defined]
        inner.x[0, 0, 3, 3] = torch.nan
        inner.x[1] = torch.inf
    world = generator() if needs_generator(config) else None
    learner = build_learner(config, Parts(images, classifier, world, False), site=0, private=private)
    trace = Trace([], {}, [], charges)
    for number in (1, 2):
        metrics = learner.train(number)
        trace.metrics.append({name: value for name, value in metrics.items() if name not in CLOCKS})
        trace.weights.append(classifier.shared_state())
    trace.state = learner.state()
    return trace


def other_images() -> Images:
    """Return another number of images, the class 3 missing."""
    images = digits(90, start=700)
    return images.take(torch.nonzero(images.y != 3).flatten())


def replayed(releases: Sequence[Any]) -> Tape:
    return Tape(SecureNoise(), releases=list(releases))


def compare(config: Config) -> tuple[list[str], list[str]]:
    """Return what differs between two data sets with the releases of the first replayed, and without."""
    tape = Tape(SecureNoise())
    first = train(config, digits(60), tape)
    images = other_images()
    again = train(config, images, replayed(tape.releases), spoil=True)
    free = train(config, images, FastNoise(), spoil=True)
    return first.differs(again), first.differs(free)


@pytest.mark.parametrize("method", PRIVATE_METHODS)
def test_a_replayed_tape_leaves_no_trace_of_the_data(method: str) -> None:
    with_tape, without = compare(config_of(method))
    assert with_tape == []
    assert "weights" in without
    assert "charges" not in without


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.trainable=norm"],
        ["model.trainable=head"],
        ["model.name=hog"],
        ["method.augment=half-strong", "privacy.per_unit=loop"],
        ["method.augment=none"],
        ["privacy.meta_params=all", "privacy.per_class_gap=true"],
        ["federation.anchor.weight=1", "federation.anchor.images=8", "federation.strategy.name=fedprox"],
    ],
    ids=" ".join,
)
def test_every_setting_leaves_no_trace(overrides: list[str]) -> None:
    with_tape, without = compare(config_of("mp-ssl", *overrides))
    assert with_tape == []
    assert "weights" in without


def test_the_labelled_step_scope_leaves_traces() -> None:
    """The same test sees what that scope does not cover: the exact reads of latent meta-optimisation reach the weights."""
    tape = Tape(SecureNoise())
    config = config_of("mp-ssl", "privacy.scope=labelled-step")
    first = train(config, digits(60), tape)
    again = train(config, other_images(), replayed(tape.releases))
    assert "weights" in first.differs(again)
    assert "state" in first.differs(again)


def test_the_labelled_step_scope_releases_the_gradient_alone() -> None:
    config = config_of("mp-ssl", "privacy.scope=labelled-step")
    charges = train(config, digits(30), FastNoise()).charges
    assert {kind for kind, _, _ in charges} == {"gradient"}
    assert len(charges) == 4


@pytest.mark.parametrize(
    ("method", "trainable"),
    [
        ("base", "head"),
        ("p-ssl", "head"),
        ("vic-gssl", "norm"),
        ("mp-ssl", "norm"),
        ("mp-ssl", "head"),
        ("mp-ssl-wo-scr", "head"),
    ],
)
def test_a_plan_pays_for_what_is_released(method: str, trainable: str) -> None:
    """The charges of a run are its plan's history, release for release; a frozen body leaves (b) and (c) to head losses."""
    config = config_of(method, f"model.trainable={trainable}")
    history: dict[tuple[float, float], int] = {}
    kinds = set()
    for kind, sigma, q in train(config, digits(20), FastNoise()).charges:
        history[sigma, q] = history.get((sigma, q), 0) + 1
        kinds.add(kind)
    assert history == plan_for(config).history()
    lmo = method == "mp-ssl-wo-scr" or (method == "mp-ssl" and trainable == "norm")
    assert ({"meta", "feature"} <= kinds) == lmo


@pytest.mark.parametrize("scope", ["end-to-end", "labelled-step"])
def test_no_private_metric_exists(scope: str) -> None:
    config = config_of("base", f"privacy.scope={scope}")
    assert all("loss" not in metrics for metrics in train(config, digits(20), FastNoise()).metrics)
    assert DPPrivateData.last_loss is None
    assert LabelledStepPrivateData.last_loss is None
