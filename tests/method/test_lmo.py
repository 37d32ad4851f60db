"""The meta-gradient against three oracles, in float64; what it reaches; its slices; its memory."""

from __future__ import annotations

import gc
import resource
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.config.learning import Method
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.generators.base import Generator, load_generator
from mpssl_fed.method.lmo import MetaSettings, meta_gradient
from mpssl_fed.method.losses import LOSSES, UnsupervisedLoss
from mpssl_fed.method.private_data import ExactPrivateData
from mpssl_fed.method.sources import MetaOptimised, Task
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier, Params, build_classifier
from tests.method import oracles
from tests.method.test_step import config, learner

IMAGES = 8
EXACT_LOOK_AHEAD = 0.0625  # torchopt keeps its step size in float32; a power of two is the same there


@dataclass
class Bed:
    """A real classifier, real digits and the embedded generator, at one point."""

    loss_name: str = "scr"
    norm: str = "group"
    hard: bool = False
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        data = load_dataset("mnist-5k")
        method = Method.model_validate({"source": "meta-optimised", "loss": self.loss_name, "latent": {"hard": self.hard}})
        self.generator: Generator = load_generator("glyphs-digits").to(self.dtype)
        self.classifier: Classifier = build_classifier("small-cnn", data.classes, 1, 32, norm=self.norm).to(self.dtype)
        self.views = Views(flip=False, size=32)
        rng = torch.Generator().manual_seed(3)
        some = torch.randperm(len(data.train), generator=rng)[:24]
        images = data.train.take(some)
        self.private = ExactPrivateData(self.classifier, images, images, lambda x, _: x, self.views.plain, batch_size=64)
        task = Task(len(data.classes), 1, 32, 0, torch.device("cpu"), self.dtype)
        self.source = MetaOptimised(method, task, self.generator)
        with torch.no_grad():  # away from the symmetric start
            for parameter in self.source.latents.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=self.dtype), alpha=0.1)
        self.loss: UnsupervisedLoss = LOSSES[self.loss_name](method, len(data.classes))
        self.draw = self.source.draw(IMAGES, rng)
        self.pair = self.views.fixed_pair(IMAGES, rng)

    @property
    def theta(self) -> Params:
        return self.classifier.theta()

    @cached_property
    def g_sup(self) -> Params:
        return self.private.supervised_gradient(self.theta)

    def settings(self, gap: float = 1.0, micro_batch: int | None = None) -> MetaSettings:
        return MetaSettings(EXACT_LOOK_AHEAD, 5.0, gap, micro_batch)

    def decoupled(self, settings: MetaSettings) -> list[Tensor]:
        args = (self.classifier, self.loss, self.private, self.source, self.theta, self.g_sup, self.draw, self.pair, settings)
        return meta_gradient(*args).gradient

    def objective(self, settings: MetaSettings) -> Tensor:
        args = (self.classifier, self.loss, self.private, self.source, self.theta, self.g_sup, self.draw, self.pair, settings)
        return oracles.objective(*args)


@pytest.mark.parametrize(("loss", "norm"), [("scr", "group"), ("scr", "batch"), ("scr-stopgrad", "group"), ("vicreg", "group"),
                                            ("infonce", "group"), ("freematch", "group")])  # fmt: skip
@pytest.mark.parametrize("hard", [False, True])
def test_equals_the_naive_form(loss: str, norm: str, hard: bool) -> None:
    bed = Bed(loss, norm, hard)
    settings = bed.settings()
    assert oracles.distance(bed.decoupled(settings), oracles.naive(bed.source, bed.objective(settings))) < 1e-12


@pytest.mark.parametrize("loss", ["scr", "vicreg"])
def test_equals_torchopt(loss: str) -> None:
    bed = Bed(loss)
    settings = bed.settings(gap=0.0)
    x, y = bed.private.train
    bed.g_sup  # noqa: B018  (taken before torchopt moves the parameters)
    mine = bed.decoupled(settings)
    supervised = F.cross_entropy(bed.classifier(x), y)
    outside = oracles.by_torchopt(bed.classifier, bed.loss, bed.private, bed.source, supervised, bed.draw, bed.pair, settings)
    assert oracles.distance(mine, outside) < 1e-12


@pytest.mark.parametrize("loss", ["scr", "vicreg"])
def test_equals_central_differences_of_the_objective(loss: str) -> None:
    bed, h = Bed(loss), 1e-6
    settings = bed.settings()
    gradient = bed.decoupled(settings)
    parameters = list(bed.source.latents.parameters())
    rng = torch.Generator().manual_seed(5)
    for _ in range(3):
        direction = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
        length = torch.cat([d.flatten() for d in direction]).norm()
        direction = [d / length for d in direction]  # a step this short flips no ReLU gate
        values = []
        for step in (h, -2 * h):
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(step * d)
            values.append(float(bed.objective(settings).detach()))
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(h * d)
        difference = (values[0] - values[1]) / (2 * h)
        analytic = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
        assert difference == pytest.approx(analytic, rel=1e-4)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_slices_add_up(size: int) -> None:
    bed = Bed("scr")
    assert oracles.distance(bed.decoupled(bed.settings(micro_batch=size)), bed.decoupled(bed.settings())) < 1e-12


def test_a_wrong_sign_or_scale_would_be_seen() -> None:
    bed = Bed("scr")
    exact = bed.decoupled(bed.settings(gap=0.0))
    other = bed.decoupled(MetaSettings(EXACT_LOOK_AHEAD * 1.01, 5.0, 0.0))
    assert oracles.distance(other, exact) > 1e-3


def test_reaches_mapper_and_converter_and_nothing_of_the_generator() -> None:
    bed = Bed("scr")
    before = bed.generator.state_hash()
    gradient = bed.decoupled(bed.settings(gap=0.0))
    names = [name for name, _ in bed.source.latents.named_parameters()]
    norms = {name: float(g.norm()) for name, g in zip(names, gradient, strict=True)}
    assert {name.split(".")[0] for name in names} == {"mapper", "converter"}
    assert all(norm > 0 for norm in norms.values()), norms
    assert all(p.grad is None and not p.requires_grad for p in bed.generator.parameters())
    assert bed.generator.state_hash() == before
    assert all(p.grad is None for p in bed.classifier.parameters())


def test_batch_statistics_are_not_touched_by_the_look_ahead() -> None:
    bed = Bed("scr", norm="batch")
    bed.g_sup  # noqa: B018  (the supervised pass does move them)
    before = {name: b.clone() for name, b in bed.classifier.named_buffers()}
    bed.decoupled(bed.settings())
    assert all(torch.equal(b, before[name]) for name, b in bed.classifier.named_buffers())


def test_memory_is_flat_over_fifty_outer_steps() -> None:
    one = learner(config("mp-ssl", method={"lmo_every": 1, "batch": IMAGES, "lmo_batch": IMAGES}))
    one._begin(1)
    for t in range(5):
        one.step(t)
    tensors, before = _live_tensors(), _resident_mib()
    for t in range(5, 55):
        one.step(t)
    assert _live_tensors() <= tensors + 2
    assert _resident_mib() - before < 16

    source, before = one.source, _resident_mib()
    assert isinstance(source, MetaOptimised)
    kept = [
        source.from_latents(source.draw(IMAGES, source.rng)) for _ in range(30)
    ]  # graphs of G: a leak would be seen, free pages or not
    assert len(kept) == 30
    assert _resident_mib() - before > 32


def _live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


def _resident_mib() -> float:
    """Return the resident memory of now; the kernel's peak would hide a leak below the peak of an earlier test."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**20
