"""Membership, memorisation and inversion: each attack succeeds where there is something to find, and fails where there is not."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from mpssl_fed import config as configs
from mpssl_fed.audit import model_sections
from mpssl_fed.audit.audited import Audited
from mpssl_fed.audit.inversion import correlation, exact_gradient, invert
from mpssl_fed.audit.masked import as_seen
from mpssl_fed.audit.membership import infer, shadow_trainer
from mpssl_fed.audit.memorisation import matched, nearest_neighbours
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.method.supervised import loss_weights
from mpssl_fed.models import Classifier, Params
from mpssl_fed.secure import member
from tests.privacy.release_cases import Entropy, Still, classifier, digits, fixed, make


def linear_config(*overrides: str) -> Config:
    """Return the config of a linear classifier on HOG features that learns 60 images by heart in seconds."""
    fields = {
        "method": {"name": "base"},
        "model": {"name": "hog"},
        "optim": {"lr": 0.05, "schedule": "constant", "weight_decay": 0.0},
        "federation": {"rounds": 1, "local_steps": 150},
    }
    return configs.from_mapping(configs.override(fields, overrides))


def mislabelled(images: Images, seed: int) -> Images:
    """Return the images under random labels: what a model knows of them, it knows by heart."""
    rng = np.random.default_rng(seed)
    return Images(images.x, torch.from_numpy(rng.integers(0, 10, len(images))))


def test_membership_of_images_learnt_by_heart_is_found() -> None:
    members, others = mislabelled(digits(60), 1), mislabelled(digits(60, 100), 2)
    train = shadow_trainer(linear_config(), lambda: classifier("hog"), None, False)
    target = train(members, 100)
    loss, lira = infer(target, members, others, train, shadows=4)
    assert loss.auroc.low > 0.7
    assert lira.auroc.low > 0.7
    assert lira.true_positives[0.01].value > 0.2


def test_membership_under_privacy_is_a_coin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", Entropy("membership"))  # of 60 images a side, chance alone shows 0.7 once in 10^4
    private = linear_config("privacy={epsilon: 0.5, delta: 1.0e-4, public_size: 60, sample_rate: 1.0, noise: fast}")
    members, others = mislabelled(digits(60), 1), mislabelled(digits(60, 100), 2)
    train = shadow_trainer(private, lambda: classifier("hog"), None, False)
    (loss,) = infer(train(members, 100), members, others)
    assert loss.auroc.low < 0.6
    assert loss.true_positives[0.01].low < 0.1


def test_shadows_take_no_more_steps_than_asked() -> None:
    done: list[int] = []
    config = linear_config("federation.rounds=3", "federation.local_steps=2")
    train = shadow_trainer(config, lambda: classifier("hog"), None, False, steps=3, progress=done.append)
    start = classifier("hog").head.weight
    assert not torch.equal(train(digits(10), 7).head.weight, start)
    assert done == [7]


def test_copies_of_training_images_are_found_and_strangers_are_not() -> None:
    train, held_out = digits(100), digits(500, 1000)
    copies = train.floats() + 0.1 * torch.randn(100, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = nearest_neighbours(copies, train, held_out)
    assert found.nearer.low > 0.9
    assert found.p_value < 0.01
    assert found.train < found.held_out / 2
    strangers = nearest_neighbours(digits(200, 2000).floats(), train, held_out)
    assert strangers.nearer.low < 0.6
    assert strangers.p_value > 0.01


def test_both_sides_have_the_same_classes() -> None:
    one, two = matched(digits(50), digits(400, 1000), np.random.default_rng(0))
    assert one.y.bincount(minlength=10).tolist() == two.y.bincount(minlength=10).tolist()
    assert len(one) == 50


def test_a_plain_update_shows_the_image_and_a_private_one_does_not() -> None:
    model, image = classifier(), digits(1, 3)
    shown, label = image.floats()[0], int(image.y[0])
    plain = invert(model, exact_gradient(model, image), shown, label, iterations=300)
    assert plain.similarity > 0.6
    assert plain.gradient_similarity > 0.7
    private = make(image, model=model, noise=fixed("inversion"), q=1.0, sigma_gradient=1.0, clip_gradient=1.0, public_size=10)
    rebuilt = invert(model, private.supervised_gradient(model.theta()), shown, label, iterations=100)
    assert abs(rebuilt.similarity) < 0.35
    one, two = (invert(model, exact_gradient(model, image), shown, label, iterations=3).picture for _ in range(2))
    assert torch.equal(one, two), "the same seed gives the same picture"


def test_the_update_that_is_attacked_is_the_one_that_trains() -> None:
    """Batches of one image and of many, with public weights of the classes: what is released without noise or clip."""
    weights = tuple(0.1 + label for label in range(10))
    for images in (digits(1, 3), digits(12)):
        model = classifier()
        far = {"q": 1.0, "public_size": len(images), "clip_gradient": 1e3, "loss_weights": weights}
        released = make(images, model=model, noise=Still(), **far).supervised_gradient(model.theta())
        plain = exact_gradient(model, images)
        found = exact_gradient(model, images, loss_weights(weights, model))
        for key, value in found.items():
            torch.testing.assert_close(value, released[key], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found["head.bias"], plain["head.bias"], atol=1e-3)


def test_the_audit_of_a_run_knows_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor | None] = []

    def spied(model: Classifier, images: Images, weights: torch.Tensor | None = None) -> Params:
        seen.append(weights)
        return exact_gradient(model, images, weights)

    monkeypatch.setattr(model_sections, "exact_gradient", spied)
    weights = [0.5] * 5 + [1.5] * 5
    for given in (None, weights):
        asked = linear_config("model.name=pixels", *([] if given is None else [f"method.loss_weights={given}"]))
        model_sections.inversion(Audited(asked, 0, iterations=1))
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1].tolist() == weights


def test_of_a_run_that_sums_under_masks_the_plain_update_shows_the_image_and_the_masked_one_is_noise() -> None:
    asked = linear_config("model.name=pixels", "federation={sites: 3, aggregation: secure}")
    section = model_sections.inversion(Audited(asked, 0, iterations=40))
    assert section.numbers["plain"]["similarity"] > 0.6
    assert abs(section.numbers["masked"]["similarity"]) < 0.35
    assert [line.audit for line in section.lines][-1] == "gradient inversion, masked update of one image"
    (caption,) = section.pictures
    assert caption.endswith("rebuilt from the plain update, rebuilt from the private update, rebuilt from the masked update.")
    assert "sums tell" in section.note
    assert section.verdict is not None
    assert not section.verdict.alarming


def test_a_masked_update_without_its_masks_is_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the attacker reads is right but for the masks: to the last digit of the grid with them off, unrelated with them on."""
    asked, model = linear_config("federation={sites: 3, aggregation: secure}"), classifier()
    gradient = exact_gradient(model, digits(1, 3))
    true = torch.cat([gradient[key].flatten() for key in gradient])
    for masks in (True, False):
        if not masks:
            monkeypatch.setattr(member, "self_mask", lambda *_: None)
            monkeypatch.setattr(member, "pair_mask", lambda *_: None)
        seen = as_seen(asked, gradient)
        assert {key: value.shape for key, value in seen.items()} == {key: value.shape for key, value in gradient.items()}
        likeness = float(torch.nn.functional.cosine_similarity(torch.cat([seen[key].flatten() for key in gradient]), true, dim=0))
        assert (abs(likeness) < 0.03) if masks else (likeness > 0.999), likeness


def test_correlation_is_one_for_the_same_and_nothing_for_a_flat_image() -> None:
    image = digits(1).floats()[0]
    assert correlation(image, 0.3 * image - 0.2) == pytest.approx(1)
    assert correlation(image, -image) == pytest.approx(-1)
    assert correlation(image, torch.zeros_like(image)) == pytest.approx(0)
