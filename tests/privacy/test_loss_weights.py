"""Public weights of classes in the loss on labelled images: exact reads, releases, and what one unit may add."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed import config as configs
from mpssl_fed.errors import UserError
from mpssl_fed.method import build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import ExactPrivateData
from mpssl_fed.method.supervised import loss_weights, supervised_loss
from mpssl_fed.models import Classifier
from mpssl_fed.privacy.build import exact_beside, private_data
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.releases import DPPrivateData
from tests.privacy.release_cases import classifier, digits, make
from tests.privacy.test_parity import N, exact, release, same

WEIGHTS = (0.1, 10.0, 1.0, 3.0, 0.5, 2.0, 1.0, 1.0, 7.0, 0.2)
MEAN_1 = torch.tensor(WEIGHTS, dtype=torch.float64) / torch.tensor(WEIGHTS, dtype=torch.float64).mean()
FAR = 900.0  # a bound that no unit reaches


def one_by_one(model: Classifier, x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the flat gradient of each image's weighted loss, a backward pass each, on all of theta."""
    found = []
    for image, label in zip(x, y, strict=True):
        loss = MEAN_1[label] * F.cross_entropy(model(image[None]), label[None])
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.theta().values()))]))
    return found


def summed(private: DPPrivateData, units: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in private.gradient_sum(private.classifier.theta(), units)])


@pytest.mark.parametrize("backend", ["layers", "vmap", "loop"])
@pytest.mark.parametrize("bound", [0.5, FAR])
def test_an_image_is_weighted_and_then_clipped(backend: str, bound: float) -> None:
    model, images = classifier().double(), digits(12)
    private = make(images, model=model, backend=backend, loss_weights=WEIGHTS, clip_gradient=bound)
    alone = one_by_one(model, private.x, private.y)
    expected = torch.stack([g * min(1.0, bound / float(g.norm())) for g in alone]).sum(0)
    assert torch.allclose(summed(private, private.units), expected, rtol=3e-5, atol=2e-5 * float(expected.abs().max()))
    assert max(float(summed(private, [unit]).norm()) for unit in private.units) <= bound
    assert max(float(g.norm()) for g in alone) > 0.5  # so that the smaller bound clips


@pytest.mark.parametrize("backend", ["layers", "vmap", "loop"])
def test_what_a_unit_adds_depends_on_no_other(backend: str) -> None:
    """Bit by bit: whoever else is drawn, of whatever class."""
    private = make(digits(12), backend=backend, loss_weights=WEIGHTS, max_physical_batch=4)
    alone = torch.stack([summed(private, [unit]) for unit in private.units])
    for drawn in ([0, 1], [0, 5, 7, 11], list(range(12)), [11, 0]):
        assert torch.equal(summed(private, [private.units[i] for i in drawn]), alone[drawn].sum(0))


def test_a_subject_is_the_mean_of_its_weighted_images_in_whatever_slices() -> None:
    images = replace(digits(9), subjects=tuple("aabbbbbcc"))
    model = classifier().double()
    settings: dict[str, Any] = {"unit": "subject", "loss_weights": WEIGHTS, "clip_gradient": FAR, "model": model}
    found = [make(images, max_physical_batch=size, **settings) for size in (2, 32)]
    each = one_by_one(model, found[0].x, found[0].y)
    expected = torch.stack(each[:2]).mean(0) + torch.stack(each[2:7]).mean(0) + torch.stack(each[7:]).mean(0)
    for private in found:
        assert torch.allclose(summed(private, private.units), expected, rtol=3e-5, atol=2e-5 * float(expected.abs().max()))


def test_releases_without_noise_are_the_exact_reads() -> None:
    model, images = classifier().double(), digits(N)
    plain = exact(model, images)
    plain.loss_weights = loss_weights(WEIGHTS, model)
    plain.begin_round(torch.Generator(), torch.Generator().manual_seed(5))
    private = release(model, images, torch.Generator().manual_seed(5), loss_weights=WEIGHTS, clip_gradient=FAR, clip_meta=FAR)
    theta = model.theta()
    found = private.supervised_gradient(theta)
    same(found, plain.supervised_gradient(theta), 1e-5)
    same(private.validation_gradient(theta), plain.validation_gradient(theta), 1e-5)
    unweighted = exact(model, images).supervised_gradient(theta)
    assert not torch.allclose(found["head.weight"], unweighted["head.weight"], rtol=0.1)


def test_the_loss_by_hand() -> None:
    logits, y = torch.randn(6, 10, dtype=torch.float64), torch.tensor([0, 1, 1, 8, 9, 3])
    by_hand = (MEAN_1[y] * F.cross_entropy(logits, y, reduction="none")).mean()
    assert torch.allclose(supervised_loss(logits, y, MEAN_1), by_hand)
    assert torch.equal(supervised_loss(logits, y), F.cross_entropy(logits, y))
    assert torch.allclose(supervised_loss(logits, y, torch.ones(10)), F.cross_entropy(logits, y))


@pytest.mark.parametrize("scope", ["off", "labelled-step", "end-to-end"])
def test_the_key_reaches_every_read(scope: str) -> None:
    private = {} if scope == "off" else {"scope": scope, "epsilon": 4, "public_size": 100, "sample_rate": 0.2}
    config = configs.from_mapping({"method": {"name": "base", "loss_weights": list(WEIGHTS)}, "privacy": private})
    model, images = classifier(), digits(12)
    parts = Parts(images, model, None, False)
    if scope == "off":
        reads: list[Any] = [build_learner(config, parts, site=0).private, exact_beside(config, parts)]
    else:
        made: Any = private_data(config, parts, plan=plan_for(config), charge=lambda kind, sigma, q: None)
        reads = [made] if scope == "end-to-end" else [made._released, made._exact]
    for one in reads:
        found = one.loss_weights if isinstance(one, ExactPrivateData) else one._augmented.loss_weights
        assert torch.allclose(found.double(), MEAN_1)


def test_weights_are_one_for_each_class_and_bounded() -> None:
    with pytest.raises(UserError, match=r"method.loss_weights holds 3 numbers; the task has 10 classes"):
        loss_weights((1.0, 2.0, 1.0), classifier())
    for bad in ([0.0] * 10, [11.0] * 10, [float("nan")] * 10, "balanced", [True, "x"]):
        with pytest.raises(UserError, match="loss_weights"):
            configs.from_mapping({"method": {"loss_weights": bad}})
