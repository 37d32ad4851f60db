"""The meta-gradient against three oracles, in float64; what it reaches; its slices; its memory."""

from __future__ import annotations

import gc
import resource
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.config import from_mapping
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.generators.base import Generator, load_generator
from mpssl_fed.method.lmo import InnerStep, MetaAnswer, MetaSettings, meta_gradient
from mpssl_fed.method.losses import LOSSES, UnsupervisedLoss
from mpssl_fed.method.meta_optimised import MetaOptimised
from mpssl_fed.method.optimiser import Optimiser
from mpssl_fed.method.private_data import ExactPrivateData, LabelledViews
from mpssl_fed.method.sources import Task
from mpssl_fed.method.validation import Split
from mpssl_fed.method.views import Views
from mpssl_fed.models import Architecture, Classifier, build_classifier
from tests.method import oracles
from tests.method.test_step import config, learner

IMAGES, STEPS_BEFORE = 8, 3
EXACT_LOOK_AHEAD = 0.0625  # torchopt keeps its step size in float32; a power of two is the same there
SGD = {"name": "sgd", "lr": 0.05, "weight_decay": 0.0}
MOMENTUM = {"name": "momentum", "lr": 0.05, "momentum": 0.8, "weight_decay": 0.0}
ADAMW = {"name": "adamw", "lr": 0.003, "weight_decay": 0.1}


@dataclass
class Bed:
    """A real classifier some steps into its training, real digits without a 3, and the embedded generator, at one point."""

    loss_name: str = "scr"
    norm: str = "group"
    hard: bool = False
    per_class: bool = True
    optim: dict[str, Any] = field(default_factory=lambda: ADAMW)
    look_ahead: float | None = None
    images: int = IMAGES

    def __post_init__(self) -> None:
        self.config = from_mapping(
            {
                "method": {
                    "source": "meta-optimised",
                    "loss": self.loss_name,
                    "latent": {"hard": self.hard},
                    "look_ahead": self.look_ahead,
                },
                "optim": self.optim,
            }
        )
        data, double = load_dataset("mnist-5k"), torch.float64
        rng = torch.Generator().manual_seed(3)
        some = torch.randperm(len(data.train), generator=rng)[:30]
        digits = data.train.take(some[data.train.y[some] != 3])
        self.generator: Generator = load_generator("glyphs-digits").to(double)
        self.classifier: Classifier = build_classifier(Architecture("small-cnn", data.classes, 1, 32, norm=self.norm)).to(double)
        views = Views(flip=False, size=32)
        self.private = ExactPrivateData(
            self.classifier, Split.none(digits), LabelledViews(lambda x, _: x, views.plain), 64, self.per_class
        )
        task = Task(data.classes, 1, 32, 0, views, torch.ones(10), dtype=double)
        self.source = MetaOptimised(self.config.method, task, self.generator)
        with torch.no_grad():  # away from the symmetric start
            for parameter in self.source.latents.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=double), alpha=0.1)
        self.loss: UnsupervisedLoss = LOSSES[self.loss_name](self.config.method, len(data.classes))
        self.draw = self.source.draw(self.images, rng, torch.arange(3, 3 + self.images // 2).repeat_interleave(2))
        self.pair = views.fixed_pair(self.images, rng)
        optimiser, self.naive_optimiser = Optimiser(self.config, self.classifier.theta()), oracles.NaiveOptimiser(self.config)
        theta = self.classifier.theta()
        for t in range(STEPS_BEFORE):
            g = self.private.supervised_gradient(theta)
            optimiser.step(g, t)
            self.naive_optimiser.remember(g)
        g = self.private.supervised_gradient(theta)
        ahead = partial(optimiser.look_ahead, t=STEPS_BEFORE)
        self.inner = InnerStep(self.classifier, self.loss, self.private, theta, g, 5.0, ahead)

    def answer(self, settings: MetaSettings) -> MetaAnswer:
        return meta_gradient(self.inner, self.source, self.draw, self.pair, settings)

    def decoupled(self, settings: MetaSettings) -> list[Tensor]:
        return self.answer(settings).gradient

    def validation(self) -> Tensor:
        ahead = partial(self.naive_optimiser.ahead, t=STEPS_BEFORE)
        if self.look_ahead is not None:
            ahead = lambda theta, g: {k: p - self.look_ahead * g[k] for k, p in theta.items()}  # type: ignore[assignment,operator,misc] # noqa: E731
        return oracles.validation_loss(self.inner, self.source, self.draw, self.pair, ahead)

    def gap(self) -> Tensor:
        return oracles.gap(self.inner, self.source, self.draw, self.per_class)

    def naive(self, settings: MetaSettings) -> list[Tensor]:
        return oracles.naive(self.source, self.validation(), self.gap() if settings.gap_weight else None, settings)


GAP, BALANCED, ALONE = MetaSettings(0.7, balance=False), MetaSettings(0.7), MetaSettings(0.0)


@pytest.mark.parametrize(("loss", "norm"), [("scr", "group"), ("scr", "batch"), ("scr-stopgrad", "group"), ("vicreg", "group"),
                                            ("infonce", "group"), ("freematch", "group")])  # fmt: skip
@pytest.mark.parametrize("hard", [False, True])
def test_equals_the_naive_form(loss: str, norm: str, hard: bool) -> None:
    bed = Bed(loss, norm, hard)
    settings = GAP if hard else BALANCED
    assert oracles.distance(bed.decoupled(settings), bed.naive(settings)) < 1e-12


@pytest.mark.parametrize(
    "optim", [SGD, MOMENTUM, MOMENTUM | {"nesterov": True}, ADAMW], ids=["sgd", "momentum", "nesterov", "adamw"]
)
def test_looks_ahead_by_the_optimisers_own_step(optim: dict[str, Any]) -> None:
    bed = Bed(optim=optim)
    assert oracles.distance(bed.decoupled(ALONE), bed.naive(ALONE)) < 1e-12


def test_a_look_ahead_of_plain_sgd_may_be_asked_for() -> None:
    bed = Bed(look_ahead=0.3)
    assert oracles.distance(bed.decoupled(ALONE), bed.naive(ALONE)) < 1e-12
    assert oracles.distance(bed.decoupled(ALONE), Bed().decoupled(ALONE)) > 0.1


def test_a_global_gap_equals_its_definition() -> None:
    bed = Bed(per_class=False)
    answer = bed.answer(BALANCED)
    assert oracles.distance(answer.gradient, bed.naive(BALANCED)) < 1e-12
    assert answer.gap == pytest.approx(float(bed.gap().detach()), rel=1e-9)


def test_balance_gives_both_terms_a_say_on_each_part_of_the_latents() -> None:
    """Whatever the scale of the gap: with the old sum, a gap of 10^4 left nothing of the validation loss."""
    bed = Bed()
    answer = bed.answer(BALANCED)
    for block in bed.source.latents.blocks():
        total, validation, gap = (
            torch.cat([g.flatten() for g in part[block]]) for part in (answer.gradient, answer.of_validation, answer.of_gap)
        )
        assert torch.allclose(total, validation / validation.norm() + 0.7 * gap / gap.norm(), rtol=1e-9, atol=1e-12)
        assert answer.ratio(block) == pytest.approx(float(validation.norm() / gap.norm()))


@pytest.mark.parametrize("loss", ["scr", "vicreg"])
def test_equals_torchopt(loss: str) -> None:
    bed = Bed(loss, look_ahead=EXACT_LOOK_AHEAD)
    x, y = bed.private.train
    mine = bed.decoupled(ALONE)
    supervised = F.cross_entropy(bed.classifier(x), y)
    outside = oracles.by_torchopt(bed.inner, bed.source, supervised, bed.draw, bed.pair, EXACT_LOOK_AHEAD)
    assert oracles.distance(mine, outside) < 1e-12


@pytest.mark.parametrize("loss", ["scr", "vicreg"])
def test_equals_central_differences_of_the_objective(loss: str) -> None:
    """With SGD: AdamW's second moment moves with the latents, and is held constant on purpose."""
    bed, h = Bed(loss, optim=SGD), 1e-6
    gradient = bed.decoupled(GAP)
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
            values.append(float((bed.validation() + GAP.gap_weight * bed.gap()).detach()))
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(h * d)
        difference = (values[0] - values[1]) / (2 * h)
        analytic = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
        assert difference == pytest.approx(analytic, rel=1e-4)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_slices_add_up(size: int) -> None:
    bed = Bed("scr")
    sliced = MetaSettings(0.7, micro_batch=size)
    assert oracles.distance(bed.decoupled(sliced), bed.decoupled(BALANCED)) < 1e-12


@pytest.mark.parametrize(("loss", "norm"), [("vicreg", "group"), ("infonce", "group"), ("scr", "batch")])
def test_a_slice_that_holds_the_batch_is_exact_for_any_loss(loss: str, norm: str) -> None:
    bed = Bed(loss, norm)
    assert oracles.distance(bed.decoupled(MetaSettings(0.7, micro_batch=IMAGES)), bed.naive(BALANCED)) < 1e-12


def test_a_wrong_sign_or_scale_would_be_seen() -> None:
    exact, other = (Bed("scr", look_ahead=eta).decoupled(ALONE) for eta in (EXACT_LOOK_AHEAD, EXACT_LOOK_AHEAD * 1.01))
    assert oracles.distance(other, exact) > 1e-3


def test_reaches_mapper_and_converter_and_nothing_of_the_generator() -> None:
    bed = Bed("scr")
    before = bed.generator.state_hash()
    gradient = bed.decoupled(ALONE)
    names = [name for name, _ in bed.source.latents.named_parameters()]
    norms = {name: float(g.norm()) for name, g in zip(names, gradient, strict=True)}
    assert {name.split(".")[0] for name in names} == {"mapper", "converter"}
    assert all(norm > 0 for norm in norms.values()), norms
    assert all(p.grad is None and not p.requires_grad for p in bed.generator.parameters())
    assert bed.generator.state_hash() == before
    assert all(p.grad is None for p in bed.classifier.parameters())


def test_batch_statistics_are_not_touched_by_the_look_ahead() -> None:
    bed = Bed("scr", norm="batch")
    before = {name: b.clone() for name, b in bed.classifier.named_buffers()}
    bed.decoupled(BALANCED)
    assert all(torch.equal(b, before[name]) for name, b in bed.classifier.named_buffers())
    assert all(module.training for module in bed.classifier.modules())


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
    kept = []  # graphs of G: a leak would be seen, once the pages that earlier tests left free are used up
    while _resident_mib() - before <= 32:
        kept.append(source.from_latents(source.draw(IMAGES, source.rng)))
        assert len(kept) < 5000


def _live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


def _resident_mib() -> float:
    """Return the resident memory of now; the kernel's peak would hide a leak below the peak of an earlier test."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**20
