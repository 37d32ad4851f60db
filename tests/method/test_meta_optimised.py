"""Latents at a site: whose labels they follow, where z' may go, when they are optimised, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.config import from_mapping
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.errors import UserError
from mpssl_fed.generators.base import load_generator
from mpssl_fed.method import Learner, build_learner
from mpssl_fed.method.meta_optimised import MetaOptimised
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.selection import stratified
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.privacy.releases import public_weights
from tests.method.test_step import config


def at_a_site_of(digits: dict[int, int], **more: Any) -> Learner:
    """Return the learner of a site that holds so many images of each of these digits."""
    data, cfg = load_dataset("mnist-5k"), config("mp-ssl", **more)
    index = [i for digit, n in digits.items() for i in torch.nonzero(data.train.y == digit).flatten()[:n].tolist()]
    model = build_classifier(Architecture("small-cnn", data.classes, 1, 32, norm=cfg.model.norm))
    generator = load_generator("glyphs-digits", truncation=cfg.generator.truncation)
    return build_learner(cfg, Parts(data.train.take(index), model, generator, False), site=0)


def source_of(one: Learner) -> MetaOptimised:
    assert isinstance(one.source, MetaOptimised)
    return one.source


def test_y_follows_the_sites_training_labels() -> None:
    """Of ten task classes the site has two: rows of the others, which no gap reaches, are never drawn from."""
    one = at_a_site_of({3: 12, 7: 4})
    source = source_of(one)
    drawn = source.draw(3200, torch.Generator().manual_seed(0)).y.bincount(minlength=10)
    train = torch.tensor([0, 0, 0, 11, 0, 0, 0, 3, 0, 0])  # one of each is held out
    assert drawn.nonzero().flatten().tolist() == [3, 7]
    assert torch.allclose(drawn / 3200, train / 14, atol=1e-3)
    before = source.latents.converter.table.detach().clone()
    one.train(1)
    moved = (source.latents.converter.table - before).abs().sum(1)
    assert moved.nonzero().flatten().tolist() == [3, 7]
    shown = one.samples(20)
    assert shown is not None
    assert shown[1] is not None
    assert set(shown[1].tolist()) == {3, 7}


@given(st.lists(st.floats(0, 50), min_size=1, max_size=12), st.integers(1, 80), st.integers(0, 2**30))
@settings(max_examples=80, deadline=None)
def test_strata_are_off_by_less_than_one_image(weights: list[float], n: int, seed: int) -> None:
    if sum(weights) < 1e-3:
        weights = [*weights, 1.0]
    y = stratified(torch.tensor(weights, dtype=torch.float64), n, torch.Generator().manual_seed(seed))
    counts = y.bincount(minlength=len(weights))
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    assert len(y) == n
    assert float((counts - n * share).abs().max()) < 1 + 1e-6
    assert not counts[share == 0].any()


def test_under_dp_y_is_uniform_or_as_the_owner_declares() -> None:
    assert torch.equal(public_weights(None, 4), torch.full((4,), 0.25))
    assert torch.equal(public_weights((3.0, 1.0, 0.0, 0.0), 4), torch.tensor([0.75, 0.25, 0, 0]))
    with pytest.raises(UserError, match="holds 2 numbers; the task has 4 classes"):
        public_weights((3.0, 1.0), 4)


@pytest.mark.parametrize("truncation", [1.0, 0.4])
def test_no_step_takes_the_mapper_out_of_the_truncation(truncation: float) -> None:
    one = at_a_site_of({3: 3, 7: 3}, generator={"truncation": truncation})
    source = source_of(one)
    draw = source.draw(200, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(source.latents.mapper(draw.z, draw.y), draw.z, atol=1e-4)  # it starts as the random source
        for parameter in source.latents.mapper.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=3.0)
        moved = source.latents.mapper(draw.z, draw.y)
    assert float((moved - draw.z).abs().max()) > truncation
    assert float(moved.abs().max()) <= 2 * truncation * (1 + 1e-6)  # float32
    assert source.numbers()["beyond_bound"] == 0
    assert source.numbers()["near_bound"] > 0.1


def test_there_is_no_lmo_while_lambda_is_zero() -> None:
    """A look-ahead that no image enters tells nothing of images: its gradient is 0, and Adam would make steps of it."""
    never = at_a_site_of({3: 4}, method={"lambda": 0.0})
    never.train(1)
    assert source_of(never).latents.steps == 0
    rising = at_a_site_of({3: 4}, method={"warmup": 0.5})
    rising._begin(1)
    assert "gap" not in rising.step(0)
    assert "gap" in rising.step(2)
    assert source_of(rising).latents.steps == 1


def test_a_learner_tells_the_meta_ratio_before_balance() -> None:
    for balance in (True, False):
        one = at_a_site_of({3: 4, 7: 4}, method={"gap": {"balance": balance}})
        told = one.train(1)
        assert 0 < told["meta_ratio"] < 100
        assert told["gap"] == told["gap"]
    without = at_a_site_of({3: 4, 7: 4}, method={"gap": {"weight": 0}}).train(1)
    assert "meta_ratio" not in without


def test_what_privacy_cannot_cover_is_refused() -> None:
    private = {"epsilon": 2.0, "public_size": 100}
    for method, words in (
        ({"name": "base-train-only"}, "method.hold_out=true is refused"),
        ({"source": "closed-form", "loss": "scr"}, "closed-form converter is refused"),
        ({"name": "mp-ssl", "latent": {"init": "closed-form"}}, "closed-form converter is refused"),
    ):
        with pytest.raises(UserError, match=words):
            from_mapping({"method": method, "privacy": private})
    with pytest.raises(UserError, match="one finite number of 0 or more for each task class"):
        from_mapping({"privacy": private | {"class_weights": [0, 0]}})
