"""Noise off and clip far away, the releases are the exact reads; with both on, they are Opacus' on the same draw and noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mpssl_fed import config as configs
from mpssl_fed.data import augment
from mpssl_fed.data.datasets import Images
from mpssl_fed.generators import load_generator
from mpssl_fed.method import build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import ExactPrivateData, LabelledViews, PrivateData
from mpssl_fed.method.validation import Split
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier
from mpssl_fed.privacy.build import labelled_view
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.seeds import torch_rng
from tests.privacy.opacus_oracle import OpacusSums, no_addition_in_place
from tests.privacy.release_cases import SIZE, Still, classifier, digits, make, middle

N = 24
OPEN: dict[str, Any] = {
    "q": 1.0,
    "public_size": N,
    "clip_gradient": 100.0,
    "clip_meta": 100.0,
    "clip_feature": 100.0,
    "meta_params": "all",
    "max_physical_batch": N,
}


GRID = 1e-6  # relative; contributions lie on a grid of 2^-36 of so wide a clip


def exact(model: Classifier, images: Images, per_class: bool = False) -> ExactPrivateData:
    views = Views(flip=False, size=SIZE)
    return ExactPrivateData(
        model, Split.none(images), LabelledViews(views.labelled("half-strong"), views.plain), len(images), per_class
    )


def release(model: Classifier, images: Images, rows: torch.Generator, **changes: Any) -> DPPrivateData:
    """Return releases without noise or clip, whose augmentation is the public one of exact reads."""
    view = labelled_view("half-strong", flip=False, size=SIZE)
    return make(images, noise=Still(), model=model, rows=lambda n: augment.draw(n, rows), **({"augment": view, **OPEN, **changes}))


def same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    for name, value in one.items():
        scale = float(other[name].abs().max()) + 1e-12
        assert float((value - other[name]).abs().max()) <= tolerance * scale, name


def test_without_augmentation_both_are_the_plain_gradient_and_nothing_is_drawn() -> None:
    model, images, views = classifier().double(), digits(N), Views(flip=False, size=SIZE)
    theta, rng = model.theta(), torch.Generator().manual_seed(5)
    reads = ExactPrivateData(model, Split.none(images), LabelledViews(views.labelled("none"), views.plain), N, False)
    reads.begin_round(torch.Generator(), rng)
    x = images.x.float() / 127.5 - 1
    loss = F.cross_entropy(model.logits(theta, x.double()), images.y)
    names = list(theta)
    wanted = dict(zip(names, torch.autograd.grad(loss, [theta[name] for name in names]), strict=True))
    same(reads.supervised_gradient(theta), wanted, 1e-6)
    same(release(model, images, rng, augment=labelled_view("none", False, SIZE)).supervised_gradient(theta), wanted, GRID)
    before = rng.get_state()
    assert torch.equal(views.labelled("none")(F.pad(x, (2, 2, 2, 2)), rng), x)  # the centre of one that is stored larger
    assert torch.equal(rng.get_state(), before)


@pytest.mark.parametrize("backend", ["layers", "vmap", "loop"])
def test_each_release_is_the_exact_read(backend: str) -> None:
    model, images = classifier().double(), digits(N)
    theta = model.theta()
    plain = exact(model, images)
    plain.begin_round(torch.Generator(), torch.Generator().manual_seed(5))
    private = release(model, images, torch.Generator().manual_seed(5), backend=backend)
    same(private.supervised_gradient(theta), plain.supervised_gradient(theta), GRID)
    v = private.validation_gradient(theta)
    assert list(v) == [name for name in theta if name.startswith("body.")]
    same(v, plain.validation_gradient(theta), GRID)
    for per_class in (False, True):
        means = release(model, images, torch.Generator(), per_class=per_class).mean_feature(theta)
        expected = exact(model, images, per_class).mean_feature(theta)
        assert torch.equal(means.present, expected.present)
        assert torch.allclose(means.values, expected.values, rtol=1e-6, atol=1e-8)


def test_whole_steps_are_the_exact_ones() -> None:
    """Three steps of mp-ssl with latent meta-optimisation in each, global gap: weights and latents of both worlds."""
    config = configs.from_mapping(
        {
            "method": {"name": "mp-ssl", "lmo_every": 1, "batch": 6, "lmo_batch": 6, "gap": {"per_class": False}, "warmup": 0.0},
            "optim": {"name": "sgd", "lr": 0.05},
            "federation": {"rounds": 1, "local_steps": 3},
        }
    )
    images, generator = digits(N), load_generator("glyphs-digits").double()
    shares = tuple((images.y.bincount(minlength=10) / N).tolist())  # y is drawn alike in both
    found = []
    for private_of in (
        lambda model: exact(model, images),
        lambda model: release(model, images, torch_rng(config.seed, "site", 0, "round", 1, "labelled views"), weights=shares),
    ):
        model = classifier(seed=config.seed).double()
        private: PrivateData = private_of(model)
        learner = build_learner(config, Parts(images, model, generator, False), site=0, private=private)
        learner.train(1)
        found.append((model.shared_state(), {name: s for name, s in learner.state().items() if "latents.mapper" in name}))
    same(found[1][0], found[0][0], 1e-6)  # shared in float32
    same(found[1][1], found[0][1], 1e-4)  # Adam's first steps divide by the gradient's size, and a release is rounded to a grid


def test_a_subject_with_one_image_is_that_image() -> None:
    images = digits(7)
    alone = replace(images, subjects=tuple(f"patient {i}" for i in range(7)))
    batches = [[0, 2, 3, 6]] * 3
    found = []
    for data, unit in ((images, "image"), (alone, "subject")):
        private = make(data, noise=Still(batches), model=classifier().double(), unit=unit)
        theta = private.classifier.theta()
        found.append((private.supervised_gradient(theta), private.validation_gradient(theta), private.mean_feature(theta)))
    same(found[1][0], found[0][0], 1e-9)
    same(found[1][1], found[0][1], 1e-9)
    assert torch.allclose(found[1][2].values, found[0][2].values, rtol=1e-9)
    assert found[1][2].clip == found[0][2].clip


class Known(Still):
    """Draws one known batch and adds one known noise."""

    def __init__(self, batch: list[int], seed: int) -> None:
        super().__init__([batch])
        self.rng = np.random.default_rng(seed)

    def add(self, total: NDArray[np.float64], std: float) -> NDArray[np.float64]:
        return total + std * self.rng.standard_normal(total.size)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize("name", ["small-cnn", "resnet18"])
def test_release_a_is_opacus_on_the_same_draw_and_noise(name: str, mode: str) -> None:
    size = SIZE if name == "small-cnn" else 8
    images, batch = middle(digits(6), size), [0, 3, 5]
    model = classifier(name, size).double()
    bound = 1.5
    private = make(images, noise=Known(batch, seed=3), model=model, clip_gradient=bound, backend="loop" if size < SIZE else "vmap")
    mine = private.supervised_gradient(model.theta())
    with no_addition_in_place():
        opacus = OpacusSums(model, bound, mode)
        theirs = opacus(private.x[batch], private.y[batch])
        opacus.close()
    flat = torch.cat([theirs[name].flatten() for name in mine]).numpy()
    noised = torch.from_numpy(Known(batch, seed=3).add(flat, private.settings.plan.sigma_gradient * bound))
    noised /= private.settings.plan.q * private.settings.plan.public_size
    found = torch.cat([g.flatten() for g in mine.values()])
    largest = float(np.abs(flat).max()) / (private.settings.plan.q * private.settings.plan.public_size)
    assert float((found - noised).abs().max()) < 3e-5 * largest
    loss = torch.nn.functional.cross_entropy(model(private.x[batch]), private.y[batch], reduction="sum")
    unclipped = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    assert 0.3 * bound < float(np.linalg.norm(flat)) < 0.9 * float(unclipped.norm()), "nothing was clipped"
