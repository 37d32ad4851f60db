"""The training step on real digits: every method, its state, its streams, its refusals."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpssl_fed.config import METHODS, Config, from_mapping
from mpssl_fed.data.datasets import Images, load_dataset
from mpssl_fed.data.partition import choose_labelled
from mpssl_fed.errors import UserError
from mpssl_fed.generators.base import load_generator
from mpssl_fed.method import Learner, build_learner, step
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import group_means
from mpssl_fed.method.sources import Buffer
from mpssl_fed.method.warm_start import class_pairs, warm_start
from mpssl_fed.models import Architecture, build_classifier

STEPS = 6


def config(name: str = "mp-ssl", **more: Any) -> Config:
    small = {"batch": 8, "lmo_batch": 6, "buffer": 2, "lmo_every": 2, "refresh_every": 2, **more.pop("method", {})}
    federation = {"sites": 1, "rounds": 2, "local_steps": STEPS, **more.pop("federation", {})}
    return from_mapping({"method": {"name": name, **small}, "federation": federation, **more})


def learner(cfg: Config, per_class: int = 2) -> Learner:
    data = load_dataset("mnist-5k")
    chosen = choose_labelled(data.train.y.numpy(), per_class, None, 0)
    rest = np.setdiff1d(np.arange(len(data.train)), chosen)[:40]
    model = build_classifier(
        Architecture(cfg.model.name, data.classes, 1, 32, norm=cfg.model.norm, trainable=cfg.model.trainable), seed=cfg.seed
    )
    generator = load_generator("glyphs-digits")
    unlabeled = data.train.take(rest)
    return build_learner(cfg, Parts(data.train.take(chosen), model, generator, False, unlabeled), site=0)


def weights(one: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in one.classifier.theta().values()])


def test_the_step_asks_no_object_what_it_is() -> None:
    """What differs between exact and released reads, or between sources, stands in their protocols."""
    tree = ast.parse(Path(step.__file__).read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not named & {"isinstance", "issubclass", "type", "getattr", "hasattr"}


@pytest.mark.parametrize("augment", ["weak", "half-strong"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_repeats_and_resumes(method: str, augment: str) -> None:
    cfg = config(method, method={"augment": augment})
    whole, again, resumed = learner(cfg), learner(cfg), learner(cfg)
    log = whole.train(1)
    again.train(1)
    assert torch.equal(weights(whole), weights(again))
    assert log["loss"] > 0
    if cfg.method.loss != "none":
        assert np.isfinite(log["unsupervised"])
    resumed.classifier.load_state_dict(again.classifier.state_dict())
    resumed.load_state(again.state())
    whole.train(2)
    resumed.train(2)
    assert torch.equal(weights(whole), weights(resumed))
    assert not torch.equal(weights(whole), weights(again))


def test_latents_move_and_continue_between_rounds() -> None:
    one = learner(config("mp-ssl"))
    first = one.state()
    one.train(1)
    second = one.state()
    assert int(second["source.latents.steps"]) == 2  # steps 2 and 4 of 6: at step 0 lambda is 0, and no image would matter
    moved = [key for key in first if "mapper" in key or "converter" in key]
    assert any(not torch.equal(first[key], second[key]) for key in moved)
    one.train(2)
    assert int(one.state()["source.latents.steps"]) == 5


@pytest.mark.parametrize("optim", [{"name": "sgd"}, {"name": "momentum", "nesterov": True}, {"name": "adamw"}])
def test_optimisers_and_the_schedule(optim: dict[str, Any]) -> None:
    one = learner(config("base", optim={"lr": 0.01, "weight_decay": 0.0, **optim}))
    before = weights(one)
    one.train(1)
    assert 0 < float((weights(one) - before).norm()) < 10


def test_plain_sgd_is_the_update_that_the_page_says() -> None:
    cfg = config("base", optim={"name": "sgd", "lr": 0.1, "weight_decay": 0, "schedule": "constant", "warmup_steps": 0})
    one, other = learner(cfg), learner(cfg)
    one.train(1, steps=1)
    other._begin(1)
    theta = other.classifier.theta()
    g = other.private.supervised_gradient(theta)
    expected = torch.cat([(p.detach() - 0.1 * g[name]).flatten() for name, p in theta.items()])
    assert torch.allclose(weights(one), expected, atol=1e-7)


def test_the_proximal_term_holds_the_weights_back() -> None:
    plain = learner(config("base", optim={"name": "sgd", "lr": 0.1}))
    held = learner(
        config("base", optim={"name": "sgd", "lr": 0.1}, federation={"strategy": {"name": "fedprox", "proximal_mu": 5.0}})
    )
    start = weights(plain)
    plain.train(1)
    held.train(1)
    assert float((weights(held) - start).norm()) < 0.95 * float((weights(plain) - start).norm())


def test_the_anchor_pulls_towards_the_global_logits_and_not_at_them() -> None:
    one = learner(config("base", federation={"anchor": {"weight": 1.0, "images": 32, "batch": 32}}))
    assert one.anchor is not None
    one._begin(1)
    start = {name: p.detach().clone() for name, p in one.classifier.theta().items()}
    assert max(float(g.abs().max()) for g in one.anchor.gradient(one.classifier.theta()).values()) < 1e-6
    for t in range(STEPS):
        one.step(t)
    theta = one.classifier.theta()
    outwards = sum(float((g * (theta[name].detach() - start[name])).sum()) for name, g in one.anchor.gradient(theta).items())
    assert outwards > 0


@pytest.mark.parametrize("trainable", ["all", "norm", "head"])
def test_only_what_is_trainable_moves(trainable: str) -> None:
    one = learner(config("mp-ssl", model={"trainable": trainable}))
    before = {name: p.detach().clone() for name, p in one.classifier.named_parameters()}
    one.train(1)
    moved = {name for name, p in one.classifier.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(one.classifier.theta())
    assert (one.source is None) == (trainable == "head")  # a feature loss would reach nothing


def test_bf16_autocast_stays_near_full_precision() -> None:
    full, half = learner(config("mp-ssl")), learner(config("mp-ssl", runtime={"autocast": "bf16"}))
    full.train(1)
    half.train(1)
    assert all(p.dtype == torch.float32 for p in half.classifier.parameters())
    cosine = torch.nn.functional.cosine_similarity(weights(full), weights(half), dim=0)
    assert 0.9 < float(cosine) < 1 - 1e-9


def test_a_bank_is_made_once_and_random_share_mixes() -> None:
    banked = learner(config("mp-ssl-wo-lmo", method={"bank": 20}))
    assert banked.train(1)["generated"] == 20
    assert banked.train(2)["generated"] == 0
    mixed = learner(config("mp-ssl", method={"random_share": 0.5}))
    assert np.isfinite(mixed.train(1)["unsupervised"])


def test_a_bank_of_meta_optimised_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"method\.bank=8: only random sources"):
        learner(config("mp-ssl", method={"bank": 8}))


def test_a_site_without_images_and_one_with_a_single_image() -> None:
    data, cfg = load_dataset("mnist-5k"), config("mp-ssl")
    generator = load_generator("glyphs-digits")

    def build(images: Images) -> Learner:
        model = build_classifier(Architecture("small-cnn", data.classes, 1, 32))
        return build_learner(cfg, Parts(images, model, generator, False), site=3)

    with pytest.raises(UserError, match="site 3 has no labelled image"):
        build(data.train.take([]))
    assert np.isfinite(build(data.train.take([5])).train(1)["loss"])


def test_group_means_by_hand() -> None:
    means, present = group_means(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 5.0]]), torch.tensor([0, 0, 2]), 3)
    assert means.tolist() == [[2.0, 3.0], [0.0, 0.0], [5.0, 5.0]]
    assert present.tolist() == [True, False, True]


def test_the_buffer_keeps_the_latest_within_half_a_grey_level() -> None:
    buffer, rng = Buffer(4), torch.Generator().manual_seed(0)
    first, second = torch.rand(3, 1, 2, 2) * 2 - 1, torch.rand(3, 1, 2, 2) * 2 - 1
    buffer.add(first)
    buffer.add(second)
    kept = torch.cat([first, second])[-4:]
    drawn = buffer.draw(4, rng, torch.float32)
    distance = (drawn.unsqueeze(1) - kept.unsqueeze(0)).abs().amax((2, 3, 4))
    assert sorted(distance.argmin(1).tolist()) == [0, 1, 2, 3]
    assert float(distance.min(1).values.max()) <= 0.5 / 127.5 + 1e-6


@pytest.mark.parametrize("part", ["body", "head", "both"])
def test_warm_start_reads_the_generator_alone(part: str) -> None:
    data, generator = load_dataset("mnist-5k"), load_generator("glyphs-digits")
    cfg = config("base", warm_start={"part": part, "steps": 100 if part == "both" else 3, "batch": 32})
    model = build_classifier(Architecture("small-cnn", data.classes, 1, 32))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    warm_start(cfg, model, generator, flip=False)
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"body": {"body"}, "head": {"head"}, "both": {"body", "head"}}[part]
    assert all(p.requires_grad for p in model.parameters())
    if part == "both":  # the generator's classes include the digits: better than chance without one labelled image
        model.eval()
        accuracy = (model(data.test.floats()[::4]).argmax(1) == data.test.y[::4]).float().mean()
        assert float(accuracy) > 0.3


def test_class_map_errors() -> None:
    with pytest.raises(UserError, match=r"class_map: the generator has no class 'Q1'"):
        class_pairs(("Q", "R"), ("q",), {"Q1": "q"})
    with pytest.raises(UserError, match=r"class_map: the task has no class 'x'"):
        class_pairs(("Q", "R"), ("q",), {"Q": "x"})
    with pytest.raises(UserError, match="no class of the generator has the name of a task class"):
        class_pairs(("Q", "R"), ("q",), {})
    sources, targets = class_pairs(("Q", "R"), ("q", "r"), {"R": "q"})
    assert sources.tolist() == [1]
    assert targets.tolist() == [0]
