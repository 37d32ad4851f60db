"""Gradients of single images out of one forward and one backward pass of a batch, by the formulas of the layers with the weights.

What a layer's weights get from image i follows from rows i of what went in and of the gradient at what came out: an outer product
for a linear layer (Goodfellow, arXiv 1510.01799), the same over patches for a convolution (Rochette et al., arXiv 1912.06015). So
the passes are those of a plain batch, and gradients are held for a few images at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.models import Classifier
from mpssl_fed.models.norms import ChannelAffine, FrozenNorm

Rule = Callable[[Any, Tensor, Tensor], dict[str, Tensor]]
"""(layer, what went in [m, ...], gradient at what came out [m, ...]) -> gradients [m, ...] of its weight and bias."""


def known(classifier: Classifier, keys: Sequence[str]) -> bool:
    """Return whether each parameter in ``keys`` is the weight or bias of a layer whose formula is here, and of no second layer."""
    everyone = [id(p) for _, p in classifier.named_parameters(remove_duplicate=False)]
    places = [key.rpartition(".") for key in keys]
    return len(set(everyone)) == len(everyone) and all(
        name in ("weight", "bias") and _has_rule(classifier.get_submodule(layer)) for layer, _, name in places
    )


def gradients(classifier: Classifier, keys: Sequence[str], loss: Callable[[], Tensor], at_once: int) -> Iterator[list[Tensor]]:
    """Yield the gradients of some images after the other: a tensor [at_once, ...] a key; the last may be shorter.

    loss: the sum of the images' losses, by a pass of the classifier in which image i is row i throughout and no layer writes over
    what came out of another. ``keys`` have to be :func:`known`.
    """
    layers = {name: classifier.get_submodule(name) for name in dict.fromkeys(key.rpartition(".")[0] for key in keys)}
    passed = _passed(layers, loss)
    for start in range(0, len(passed[0][1]), at_once):
        found: dict[str, Tensor] = {}
        for name, given, slope in passed:
            layer, part = layers[name], slice(start, start + at_once)
            for kind, gradient in RULES[type(layer)](layer, given[part], slope[part]).items():
                key = f"{name}.{kind}"
                found[key] = found[key] + gradient if key in found else gradient  # a layer may be passed twice
        yield [found[key] for key in keys]


def _passed(layers: dict[str, nn.Module], loss: Callable[[], Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    """Return, for each time that a layer was passed, its name, what went in and the gradient of ``loss`` at what came out."""
    seen: list[tuple[str, Tensor, Tensor]] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            seen.append((name, given[0].detach(), out if out.requires_grad else out.requires_grad_()))

        return hook

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        value = loss()
    finally:
        for one in hooks:
            one.remove()
    slopes = torch.autograd.grad(value, [out for _, _, out in seen], allow_unused=True, materialize_grads=True)
    return [(name, given, slope) for (name, given, _), slope in zip(seen, slopes, strict=True)]


def _convolution(layer: nn.Conv2d, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    (tall, wide), (down, right), (far_down, far_right) = layer.kernel_size, layer.stride, layer.dilation
    padding = layer.padding
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))  # type: ignore[arg-type]  # not a word, see _has_rule
    (n, channels), (high, broad) = x.shape[:2], slope.shape[2:]
    one, channel, row, column = x.stride()
    # a patch for each place of what came out, without a copy: [n, C, kh, kw, h, w]
    patches = x.as_strided(
        (n, channels, tall, wide, high, broad),
        (one, channel, row * far_down, column * far_right, row * down, column * right),
    )
    patches = patches.reshape(n * layer.groups, -1, high * broad)
    weight = torch.bmm(slope.reshape(n * layer.groups, -1, high * broad), patches.transpose(1, 2))
    return {"weight": weight.view(n, *layer.weight.shape), "bias": slope.sum((2, 3))}


def _linear(_: nn.Linear, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    x, slope = x.reshape(len(x), -1, x.shape[-1]), slope.reshape(len(slope), -1, slope.shape[-1])
    return {"weight": torch.bmm(slope.transpose(1, 2), x), "bias": slope.sum(1)}


def _group_norm(layer: nn.GroupNorm, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    return _each_channel(F.group_norm(x, layer.num_groups, eps=layer.eps), slope)


def _layer_norm(layer: nn.LayerNorm, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    shape = layer.normalized_shape
    normal = F.layer_norm(x, shape, eps=layer.eps)
    other = tuple(range(1, x.ndim - len(shape)))
    return {"weight": _summed(normal * slope, other), "bias": _summed(slope, other)}


def _frozen_norm(layer: FrozenNorm, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    scale = torch.rsqrt(layer.variance + 1e-3)
    return _each_channel((x - layer.mean[:, None, None]) * scale[:, None, None], slope)


def _channel_affine(_: ChannelAffine, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    return _each_channel(x, slope)


def _each_channel(normal: Tensor, slope: Tensor) -> dict[str, Tensor]:
    other = tuple(range(2, slope.ndim))
    return {"weight": _summed(normal * slope, other), "bias": _summed(slope, other)}


def _summed(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    return values.sum(axes) if axes else values  # of no axes, torch sums over all


RULES: dict[type, Rule] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    FrozenNorm: _frozen_norm,
    ChannelAffine: _channel_affine,
}


def _has_rule(layer: nn.Module) -> bool:
    """Whether there is a formula for just this type: a subclass may compute something else."""
    plain = not isinstance(layer, nn.Conv2d) or (layer.padding_mode == "zeros" and not isinstance(layer.padding, str))
    return plain and type(layer) in RULES
