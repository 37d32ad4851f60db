"""Convolutions for the meta-gradient, whose second backward pass computes nothing that nobody asked for.

The gradient of < grad_theta L(theta; x), u > with respect to x goes backward through convolutions and their backward passes. Since
theta needs a gradient in the first of the two, torch takes one in the second as well, which is as much work as either of the
others and is thrown away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

How = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""Stride, padding, dilation and groups."""

NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
USUAL = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


_WILL_EXECUTE = getattr(torch._C, "_will_engine_execute_node", None)


def _forward(x: Tensor, weight: Tensor, how: How) -> Tensor:
    stride, padding, dilation, groups = how
    return torch.convolution(x, weight, None, stride, padding, dilation, False, (0, 0), groups)


def _backward(slope: Tensor, x: Tensor, weight: Tensor, how: How, wanted: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients with respect to x and weight, None where not wanted."""
    stride, padding, dilation, groups = how
    found = torch.ops.aten.convolution_backward(
        slope, x, weight, None, stride, padding, dilation, False, (0, 0), groups, (*wanted, False)
    )
    return found[0], found[1]


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, how: How) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = how
        return _forward(x, weight, how)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        # only the first pass, which keeps a graph, asks for the weight's; it stops before the first layer's input
        wanted = _goes_on(ctx), ctx.needs_input_grad[1] and torch.is_grad_enabled()
        found = _Gradients.apply(slope, x, weight, ctx.how, wanted)
        return *found, None


def _goes_on(ctx: Any) -> bool:
    """Whether the pass at hand wants a gradient of x; where torch does not say, as of a leaf, whether x could have one."""
    before = ctx.next_functions[0][0] if ctx.needs_input_grad[0] else None
    if before is None or _WILL_EXECUTE is None or hasattr(before, "variable"):
        return before is not None
    return bool(_WILL_EXECUTE(before))


class _Gradients(Function):
    @staticmethod
    def forward(
        ctx: Any, slope: Tensor, x: Tensor, weight: Tensor, how: How, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(slope, x, weight)
        ctx.how = how
        ctx.set_materialize_grads(False)
        return _backward(slope, x, weight, how, wanted)

    @staticmethod
    def backward(ctx: Any, of_x: Tensor | None, of_weight: Tensor | None) -> tuple[Tensor | None, ...]:
        slope, x, weight = ctx.saved_tensors
        parts = [] if of_x is None else [_forward(of_x, weight, ctx.how)]
        if of_weight is None:
            return (*parts, *[None] * (5 - len(parts)))
        parts.append(_forward(x, of_weight, ctx.how))
        to_x, _ = _backward(slope, x, of_weight, ctx.how, (True, False)) if ctx.needs_input_grad[1] else (None, None)
        return sum(parts[1:], parts[0]), to_x, None, None, None


class LeanConvolutions(TorchFunctionMode):
    """Within it ``conv2d`` is as always, forward and in a backward pass that keeps its graph; in one without, which is to be the
    second, the weights get no gradient."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Take the place of ``torch.conv2d`` on a batch of images."""
        if func is not torch.conv2d:
            return func(*args, **(kwargs or {}))
        return _conv2d(*args, **(kwargs or {}))


def _conv2d(*args: Any, **kwargs: Any) -> Tensor:
    given = USUAL | dict(zip(NAMES, args, strict=False)) | kwargs
    x, weight, bias = (given[name] for name in NAMES[:3])
    if x.ndim != 4 or isinstance(given["padding"], str):
        return torch.conv2d(*args, **kwargs)
    stride, padding, dilation = (_pair(given[name]) for name in NAMES[3:6])
    out: Tensor = _Convolution.apply(x, weight, (stride, padding, dilation, given["groups"]))
    return out if bias is None else out + bias.view(-1, 1, 1)


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
