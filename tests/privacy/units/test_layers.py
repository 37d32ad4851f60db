"""Gradients of single images by the formulas of layers, against one backward pass an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.models import Architecture, Classifier
from mpssl_fed.models.norms import ChannelAffine, FrozenNorm
from mpssl_fed.privacy.units import layers, per_unit
from tests.privacy.release_cases import digits, make

SIDE = 32


def conv(*args: Any, **options: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(*args, **options), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


def moved(layer: FrozenNorm) -> FrozenNorm:
    layer.mean.copy_(torch.linspace(-1, 1, len(layer.mean)))
    layer.variance.copy_(torch.linspace(0.1, 2, len(layer.variance)))
    return layer


class Tokens(nn.Module):
    """Rows of an image as a sequence: a linear layer and a LayerNorm on three axes; a layer that is passed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.again = nn.Linear(SIDE, 6), nn.LayerNorm(6), nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x[:, 0]))
        return torch.tanh(self.again(torch.tanh(self.again(x)))).mean(1)


class InPlace(nn.Module):
    """What comes out of the convolution is written over."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x), inplace=True).mean((2, 3))


class Borrowed(nn.Module):
    """The weight of a layer is used outside of it too, as by an auto-encoder with tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(SIDE, SIDE)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.linear(torch.tanh(self.lin(x.mean((1, 2)))), self.lin.weight.t()))


class Mixing(nn.Module):
    """Images see each other."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(SIDE, 8)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.tanh(self.lin(x.mean((1, 2))))
        return out - out.mean(0)


class Scaled(nn.Module):
    """A parameter that is no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.weight = nn.Linear(SIDE, 8), nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * self.lin(x.mean((1, 2)))


class Subclass(nn.Conv2d):
    """Standardised weights, as in timm's StdConv2d."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias).mean((2, 3))


class Aside(nn.Module):
    """A second layer that is not passed or, ``used``, leads nowhere; the first one's input is ``named`` or not."""

    def __init__(self, used: bool = False, named: bool = False) -> None:
        super().__init__()
        self.lin, self.aside, self.used, self.named = nn.Linear(SIDE, 8), nn.Linear(8, 3), used, named

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((1, 2))
        out = torch.tanh(self.lin(input=x) if self.named else self.lin(x))
        if self.used:
            self.aside(out)
        return out


class OneByOne(nn.Module):
    """Images pass the convolution each alone, without an axis for them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.tanh(self.conv(image)).mean((1, 2)) for image in x])


GOOD: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "convolution": (lambda: conv(1, 6, 3, 2, 1), 24),
    "without padding or bias": (lambda: conv(1, 4, (3, 5), (2, 3), 0, bias=False), 16),
    "dilated": (lambda: conv(1, 4, 3, 1, (2, 1), dilation=(2, 3)), 16),
    "one by one, a stride": (lambda: conv(1, 4, 1, 3), 16),
    "in groups": (lambda: nn.Sequential(nn.Conv2d(1, 6, 3, 4), conv(6, 12, 3, 1, 1, groups=3)), 48),
    "of each channel": (lambda: nn.Sequential(nn.Conv2d(1, 6, 3, 4), conv(6, 6, 3, 2, 1, groups=6)), 24),
    "channels last": (lambda: conv(1, 6, 3, 2, 1).to(memory_format=torch.channels_last), 24),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(1, 6, 5, 4), nn.GroupNorm(2, 6), nn.AdaptiveAvgPool2d(2), nn.Flatten()), 24),
    "layer norm of images": (lambda: nn.Sequential(nn.AvgPool2d(8), nn.LayerNorm([1, 4, 4]), nn.Tanh(), nn.Flatten()), 16),
    "frozen norm": (lambda: nn.Sequential(nn.Conv2d(1, 6, 5, 4), moved(FrozenNorm(6)), nn.AdaptiveAvgPool2d(2), nn.Flatten()), 24),
    "a layer that leads nowhere": (lambda: Aside(used=True), 8),
    "affine": (lambda: nn.Sequential(nn.Conv2d(1, 6, 5, 4), ChannelAffine(6), nn.AdaptiveAvgPool2d(2), nn.Flatten()), 24),
    "tokens, passed twice": (Tokens, 6),
}
BAD: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "written over": (InPlace, 3),
    "a borrowed weight": (Borrowed, SIDE),
    "mixed images": (Mixing, 8),
    "a parameter alone": (Scaled, 8),
    "a layer that is not passed": (Aside, 8),
    "passed by name": (lambda: Aside(used=True, named=True), 8),
    "without an axis of images": (OneByOne, 4),
    "a subclass": (lambda: Subclass(1, 4, 3), 4),
    "reflected edges": (lambda: conv(1, 4, 3, padding=1, padding_mode="reflect"), 16),
    "padding by word": (lambda: conv(1, 4, 3, padding="same"), 16),
}


def built(case: tuple[Callable[[], nn.Module], int]) -> Classifier:
    torch.manual_seed(0)
    body, width = case[0](), case[1]
    return Classifier(body, width, Architecture(f"test/{case}", tuple("0123456789"), 1, SIDE))


@pytest.mark.parametrize("name", GOOD)
def test_formulas_are_those_of_one_backward_pass_an_image(name: str) -> None:
    """In float64, three images at a time of seven; image 5 once blank, so that a formula may not divide by what went in."""
    model = built(GOOD[name]).double()
    x, y = torch.randn(7, 1, SIDE, SIDE, dtype=torch.float64), torch.arange(7)
    x[5] = 0
    theta = {key: p.detach() for key, p in model.theta().items()}
    assert layers.known(model, list(theta))
    parts = list(layers.gradients(model, list(theta), lambda: F.cross_entropy(model.logits(theta, x), y, reduction="sum"), 3))
    assert [len(part[0]) for part in parts] == [3, 3, 1]
    found = [torch.cat(one) for one in zip(*parts, strict=True)]
    for i in range(7):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        expected = torch.autograd.grad(loss, list(model.theta().values()), allow_unused=True, materialize_grads=True)
        for key, mine, other in zip(theta, found, expected, strict=True):
            assert torch.allclose(mine[i], other, rtol=1e-9, atol=1e-12), key
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_scales_of_zero_hide_nothing() -> None:
    """A server may send any weights; what a norm layer's scale gets does not hang on the scale."""
    model = built(GOOD["group norm"]).double()
    theta = {key: p.detach() * (0 if key == "body.1.weight" else 1) for key, p in model.theta().items()}
    x, y = torch.randn(2, 1, SIDE, SIDE, dtype=torch.float64), torch.arange(2)
    (found,) = layers.gradients(model, list(theta), lambda: F.cross_entropy(model.logits(theta, x), y, reduction="sum"), 2)
    leaves = {key: p.clone().requires_grad_() for key, p in theta.items()}
    expected = torch.autograd.grad(F.cross_entropy(model.logits(leaves, x), y, reduction="sum"), list(leaves.values()))
    for mine, other in zip(found, expected, strict=True):
        assert torch.allclose(mine.sum(0), other, atol=1e-12)
    assert float(found[list(theta).index("body.1.weight")].norm()) > 0.1


@pytest.mark.parametrize("name", BAD)
def test_networks_that_formulas_would_be_wrong_of_go_by_vmap(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_unit, "_networks", {})
    model = built(BAD[name])
    private = make(digits(4), model=model, meta_params="all")
    assert private._augmented._backend(list(model.theta())) == "vmap"
    if name not in ("mixed images", "written over"):  # no gradient of a single image, or none that vmap takes
        found = private.gradient_sum(model.theta(), private.units)
        loop = make(digits(4), model=model, backend="loop", meta_params="all").gradient_sum(model.theta(), private.units)
        for mine, other in zip(found, loop, strict=True):
            assert torch.allclose(mine, other, rtol=1e-3, atol=1e-4)


def test_networks_of_the_house_go_by_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.privacy.release_cases import classifier

    monkeypatch.setattr(per_unit, "_networks", {})
    for model in (classifier(), classifier("resnet18"), classifier("hog"), classifier("small-cnn", trainable="norm")):
        assert make(digits(2), model=model)._augmented._backend(list(model.theta())) == "layers", model.name


@pytest.mark.parametrize("lost", ["_convolution", "_linear", "_group_norm"])
def test_a_wrong_formula_is_seen_before_it_is_used(lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one layer alone, by 3 %."""
    monkeypatch.setattr(per_unit, "_networks", {})
    honest: Any = getattr(layers, lost)
    kind = next(kind for kind, rule in layers.RULES.items() if rule is honest)

    def wrong(layer: nn.Module, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
        return {name: 1.03 * found for name, found in honest(layer, x, slope).items()}

    private = make(digits(2))
    assert private._augmented._backend(list(private.classifier.theta())) == "layers"
    per_unit._networks.clear()
    monkeypatch.setitem(layers.RULES, kind, wrong)
    assert private._augmented._backend(list(private.classifier.theta())) == "vmap"
