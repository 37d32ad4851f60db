"""L_gap: unbiased, free of the features' scale, and blind to nothing that BatchNorm could hide."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mpssl_fed.config.learning import Latent
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.method.gap import gap_loss
from mpssl_fed.method.latent import LatentDraw, Latents
from mpssl_fed.method.lmo import InnerStep, MetaSettings, meta_gradient
from mpssl_fed.method.optimiser import Optimiser
from mpssl_fed.method.private_data import FeatureMeans
from mpssl_fed.method.step import Learner
from tests.method.test_step import config, learner

D, DRAWS = 40, 400


def means(values: Tensor, per_class: bool, spread: float | None) -> FeatureMeans:
    known = None if spread is None else torch.tensor(spread)
    return FeatureMeans(values, torch.ones(len(values), dtype=torch.bool), per_class, spread=known)


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("distance", [0.0, 0.5])
def test_on_average_it_is_the_distance_of_the_true_means(per_class: bool, distance: float) -> None:
    """Synthetic features of three classes with known means; what the variance of six images each adds is taken off."""
    rng, y = torch.Generator().manual_seed(0), torch.arange(3).repeat_interleave(6)
    centres = torch.randn(3, D, generator=rng) * 3
    real = centres + distance / D**0.5  # at a distance of 0.5 from the synthetic means
    real = real if per_class else real.mean(0, keepdim=True)
    values = [float(gap_loss(means(real, per_class, 2.0), centres[y] + torch.randn(18, D, generator=rng), y)) for _ in range(DRAWS)]
    found, error = torch.tensor(values).mean(), torch.tensor(values).std() / DRAWS**0.5
    assert abs(float(found) - distance**2 / 2.0) < 3.5 * float(error)
    assert float(error) < 0.02 * D / 6  # the variance that a plain squared distance would add is seen at once


def test_images_of_a_class_that_are_all_alike_are_not_rewarded() -> None:
    """A fan of features about the real mean against one point at the same place: on average they are as good."""
    rng, y = torch.Generator().manual_seed(1), torch.zeros(8, dtype=torch.int64)
    real = means(torch.zeros(1, D), True, 1.0)
    fan = torch.stack([gap_loss(real, torch.randn(8, D, generator=rng), y) for _ in range(DRAWS)])
    alike = gap_loss(real, torch.zeros(8, D), y)
    assert abs(float(fan.mean() - alike)) < 3.5 * float(fan.std()) / DRAWS**0.5


def test_a_single_image_of_a_class_says_nothing_of_its_variance_and_is_left_out() -> None:
    real = means(torch.zeros(3, D), True, 1.0)
    y = torch.tensor([0, 0, 2])
    features = torch.ones(3, D)
    features[2] = 100.0
    assert float(gap_loss(real, features, y)) == pytest.approx(D)


@pytest.mark.parametrize("spread", [True, False])
def test_it_is_the_same_at_every_scale_of_the_features(spread: bool) -> None:
    """With the real features' spread, and with the synthetic ones' where the other was not read."""
    rng, y = torch.Generator().manual_seed(2), torch.arange(4).repeat_interleave(5)
    features, values = torch.randn(20, D, generator=rng), torch.randn(4, D, generator=rng)
    one = gap_loss(means(values, True, 7.0 if spread else None), features, y)
    other = gap_loss(means(values * 30, True, 7.0 * 900 if spread else None), features * 30, y)
    assert float(one) == pytest.approx(float(other), rel=1e-4)


@pytest.mark.parametrize("factor", [0.1, 30.0])
def test_a_learner_whose_features_are_scaled_sees_the_same_gap(factor: float) -> None:
    """The gap was 9 to 115 with the features' scale; now it is a share of the real features' spread."""
    found = []
    for scale in (1.0, factor):
        one = learner(config("mp-ssl", method={"warmup": 0.0, "lmo_batch": 20}), 4)
        scaled = _Scaled(one.classifier.body, scale)
        one.classifier.body = scaled
        one._begin(1)
        found.append(one.step(0)["gap"])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert 0 < found[0] < 20


class _Scaled(torch.nn.Module):
    def __init__(self, body: torch.nn.Module, scale: float) -> None:
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x) * self.scale
        return features


@dataclass
class Shown:
    """Images that do not depend on latents, as a source of the meta-gradient."""

    latents: Latents
    x: Tensor

    def from_latents(self, draw: LatentDraw) -> Tensor:
        return self.x + 0 * sum(parameter.sum() for parameter in self.latents.parameters())


def seen_gap(one: Learner, x: Tensor, y: Tensor) -> float:
    """Return the gap that LMO sees of images x with labels y."""
    assert one.unsupervised is not None
    theta = one.classifier.theta()
    g = one.private.supervised_gradient(theta)
    ahead = Optimiser(one.config, theta)
    inner = InnerStep(one.classifier, one.unsupervised.loss, one.private, theta, g, 1.0, lambda g: ahead.look_ahead(g, 1))
    latents = Latents(2, 10, 3, 2.0, Latent())
    draw = LatentDraw(torch.zeros(len(y), 2), y, torch.rand(len(y), 3))
    pair = one.views.fixed_pair(len(y), torch.Generator().manual_seed(0))
    return meta_gradient(inner, Shown(latents, x), draw, pair, MetaSettings(1.0)).gap


def test_what_batch_norm_would_hide_is_seen() -> None:
    """Inverted digits, normalised by their own batch, lie 8 times as far from the real ones as other digits; in truth 29 times."""
    cfg = config("mp-ssl-wo-lmo", model={"norm": "batch"}, method={"batch": 8}, optim={"lr": 0.003},
                 federation={"local_steps": 80, "rounds": 1})  # fmt: skip
    one = learner(cfg, 4)
    one.train(1)
    data = load_dataset("mnist-5k").train
    order = torch.argsort(data.y, stable=True)
    other = data.take(torch.cat([order[data.y[order] == c][50:56] for c in range(10)]))
    real, inverted = (seen_gap(one, images, other.y) for images in (other.floats(), -other.floats()))
    assert inverted > 15 * real > 0
    assert one.classifier.training
