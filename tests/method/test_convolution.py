"""The meta-gradient's convolutions against torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mpssl_fed.method.convolution import LeanConvolutions

CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "plain": ({}, (4, 6, 3, 3)),
    "stride and padding": ({"stride": 2, "padding": 1}, (4, 6, 3, 3)),
    "two numbers": ({"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)}, (4, 6, 2, 3)),
    "groups": ({"groups": 3, "padding": 1}, (6, 2, 3, 3)),
    "of each channel": ({"groups": 6}, (6, 1, 3, 3)),
    "by word": ({"padding": "same"}, (4, 6, 3, 3)),
}


def second(weight: Tensor, bias: Tensor | None, options: dict[str, Any], mode: Any) -> Sequence[Tensor]:
    """Return what comes out, the first gradients and the gradient of their product with a vector with respect to the images."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, 9, 9, generator=rng).to(weight).requires_grad_()
    with mode:
        once = torch.tanh(F.conv2d(x, weight, bias, **options))
        value = torch.tanh(F.conv2d(once[:, :1].expand(-1, 6, -1, -1), weight, bias, **options)).square().sum() + once.sum()
    wanted = [weight] if bias is None else [weight, bias]
    first = torch.autograd.grad(value, [x, *wanted], create_graph=True)
    inner = sum((g * torch.linspace(-1, 1, g.numel()).to(g).view_as(g)).sum() for g in first)
    assert isinstance(inner, Tensor)
    return once, *first, *torch.autograd.grad(inner, [x])


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_all_it_computes_is_torchs(name: str, biased: bool) -> None:
    options, shape = CASES[name]
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()
    bias = torch.randn(shape[0], generator=rng, dtype=torch.float64).requires_grad_() if biased else None
    for mine, other in zip(
        second(weight, bias, options, LeanConvolutions()), second(weight, bias, options, nullcontext()), strict=True
    ):
        assert torch.allclose(mine, other, rtol=1e-11, atol=1e-11)


def counted(work: Callable[[], object]) -> int:
    """Return how many convolutions and passes backward through one ``work`` takes."""
    with torch.profiler.profile(acc_events=True) as seen:  # without which torch 2.11 warns
        work()
    return sum(event.name in ("aten::convolution", "aten::convolution_backward") for event in seen.events())


def test_the_second_pass_takes_no_gradient_of_weights() -> None:
    """Torch takes some more than are needed."""
    net = nn.Sequential(nn.Conv2d(6, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3), nn.Tanh())
    x = torch.randn(2, 6, 9, 9, requires_grad=True)
    found = []
    for mode in (LeanConvolutions(), nullcontext()):
        with mode:
            value = net(x).square().sum()
        gradients = torch.autograd.grad(value, list(net.parameters()), create_graph=True)
        inner = torch.stack([g.square().sum() for g in gradients]).sum()
        found.append(counted(lambda inner=inner: torch.autograd.grad(inner, [x])))  # type: ignore[misc]
    assert found[0] < found[1]


def test_the_first_pass_takes_no_gradient_of_what_goes_in() -> None:
    """Torch's own backward passes know where they end; one in Python has to ask."""
    net = nn.Sequential(nn.Conv2d(6, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3))
    x = torch.randn(2, 6, 9, 9, requires_grad=True)
    shapes = []
    with LeanConvolutions():
        value = net(x * 1).square().sum()
    backward = torch.ops.aten.convolution_backward

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            if func.overloadpacket is backward:
                shapes.append((tuple(args[1].shape), args[-1][0]))
            return func(*args, **(kwargs or {}))

    with Seen():
        torch.autograd.grad(value, list(net.parameters()), create_graph=True)
    assert shapes == [((2, 4, 7, 7), True), ((2, 6, 9, 9), False)]


def test_outside_of_it_nothing_has_changed() -> None:
    weight, x = torch.randn(4, 6, 3, 3, requires_grad=True), torch.randn(2, 6, 5, 5)
    with LeanConvolutions():
        F.conv2d(x, weight)
    assert "ConvolutionBackward0" in str(F.conv2d(x, weight).grad_fn)
    assert torch.autograd.grad(F.conv2d(x, weight).sum(), [weight])[0].abs().sum() > 0
