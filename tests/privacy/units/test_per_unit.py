"""Per-unit gradients and means against plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.units import per_unit
from mpssl_fed.privacy.units.per_unit import PerUnit, units_of
from tests.privacy.release_cases import SIZE, classifier, digits, make, middle

FAR = 1e3  # a bound that no unit reaches


def with_subjects(images: Images, sizes: list[int]) -> Images:
    names = tuple(f"patient {s}" for s, size in enumerate(sizes) for _ in range(size))
    return replace(images, subjects=names)


@pytest.mark.parametrize(
    ("name", "kind", "backend"),
    [
        ("small-cnn", "gradient", "vmap"),
        ("small-cnn", "gradient", "loop"),
        ("small-cnn", "meta", "vmap"),
        ("small-cnn", "meta", "loop"),
        ("resnet18", "gradient", "vmap"),
        ("resnet18", "meta", "vmap"),
        ("resnet50", "gradient", "loop"),
        ("resnet50", "meta", "vmap"),
    ],
)
def test_clipped_sums_are_those_of_one_backward_pass_an_image(
    name: str, kind: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64; (a) on all of theta, (b) on the norm layers."""
    monkeypatch.setattr(per_unit, "BYTES", 1 << 30)
    size, n = (SIZE, 4) if name == "small-cnn" else (8, 2)
    model, images = classifier(name, size).double(), middle(digits(n), size)
    bound = 2.0 if kind == "gradient" else 0.5
    private = make(images, model=model, backend=backend, max_physical_batch=3, clip_gradient=bound, clip_meta=bound)
    total, keys = (private.gradient_sum, list(model.theta())) if kind == "gradient" else (private.meta_sum, private.meta_keys)
    found = torch.cat([g.flatten() for g in total(model.theta(), private.units)])
    expected = torch.zeros_like(found)
    for x, y in zip(private.x, private.y, strict=True):
        gradient = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), [model.theta()[key] for key in keys])
        flat = torch.cat([g.flatten() for g in gradient])
        expected += flat * min(1.0, bound / float(flat.norm()))
    assert torch.allclose(found, expected, rtol=3e-5, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["hog", "pixels", "random"])
def test_a_frozen_body_needs_the_head_alone(name: str) -> None:
    model = classifier(name)
    private = make(digits(5), model=model, max_physical_batch=2, clip_gradient=FAR)
    found = private.gradient_sum(model.theta(), private.units)
    loss = F.cross_entropy(model(private.x), private.y, reduction="sum")
    for one, other in zip(found, torch.autograd.grad(loss, list(model.theta().values())), strict=True):
        assert torch.allclose(one.float(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trainable", ["norm", "head"])
def test_trainable_parts_of_a_network(trainable: str) -> None:
    model = classifier(trainable=trainable)
    private = make(digits(5), model=model, max_physical_batch=2, clip_gradient=FAR)
    loss = F.cross_entropy(model(private.x), private.y, reduction="sum")
    found = private.gradient_sum(model.theta(), private.units)
    for one, other in zip(found, torch.autograd.grad(loss, list(model.theta().values())), strict=True):
        assert torch.allclose(one.float(), other, rtol=1e-3, atol=1e-4)


def test_a_subject_is_averaged_inside_and_clipped_once() -> None:
    images = with_subjects(digits(9), [1, 5, 3])
    private = make(images, unit="subject", max_physical_batch=2, clip_gradient=0.5, clip_feature=0.5)
    model = private.classifier
    expected = torch.zeros(sum(p.numel() for p in model.theta().values()))
    for index in private.units:
        loss = F.cross_entropy(model(private.x[index]), private.y[index])
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.theta().values()))])
        expected += flat * min(1.0, 0.5 / float(flat.norm()))
    found = torch.cat([g.flatten() for g in private.gradient_sum(model.theta(), private.units)])
    assert [len(unit) for unit in private.units] == [1, 5, 3]
    assert torch.allclose(found.float(), expected, atol=1e-4)
    assert float(private.feature_sum(model.theta(), private.units)[0][0, -1]) == pytest.approx(
        3 * private.feature_weight(), rel=1e-4
    )


@pytest.mark.parametrize("unit", ["image", "subject"])
def test_memory_is_bounded_by_the_physical_batch(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = with_subjects(digits(23), [20, 1, 1, 1])
    private = make(images, unit=unit, max_physical_batch=4)
    seen: list[int] = []

    def watch(part: PerUnit) -> PerUnit:
        def load(index: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(len(index))
            return part.load(index)

        return replace(part, load=load)

    private._augmented, private._plain = watch(private._augmented), watch(private._plain)
    theta = private.classifier.theta()
    for total in (private.gradient_sum, private.meta_sum, private.feature_sum):
        total(theta, private.units)
    filled = 24 if unit == "image" else 23  # a part of images is filled up
    assert sum(seen) == 3 * filled
    assert max(seen) == 4


@pytest.mark.parametrize(("backend", "bound"), [("layers", "HELD"), ("vmap", "BYTES")])
def test_no_more_gradients_are_held_than_a_number_of_bytes(backend: str, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    private = make(digits(6), backend=backend)
    size = 4 * sum(p.numel() for p in private.classifier.theta().values())
    theta = {name: p.detach() for name, p in private.classifier.theta().items()}
    for limit, expected in ((8 * size, [6]), (2 * size, [2, 2, 2]), (size // 2, [1] * 6)):
        monkeypatch.setattr(per_unit, bound, limit)
        parts = list(private._augmented._unit_gradients(theta, list(theta), private.units))
        assert [len(part[0]) for part in parts] == expected


def test_units_need_subjects() -> None:
    with pytest.raises(UserError, match=r"names no subjects; set data\.subjects or privacy\.unit=image"):
        units_of(digits(3), "subject")
    shuffled = replace(digits(4), subjects=("b", "a", "b", "c"))
    assert [unit.tolist() for unit in units_of(shuffled, "subject")] == [[1], [0, 2], [3]]
    assert units_of(digits(1).take([]), "image") == []
