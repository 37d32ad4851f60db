"""Normalisation layers: which of them let one image tell nothing of another."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FrozenNorm(nn.Module):
    """BatchNorm whose statistics are constants: weight x (x - mean) / sqrt(variance + 1e-3) + bias, each channel by itself.

    x: [n, c, h, w]. The scale ``weight`` and the shift ``bias`` [c] can be trained.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        # Not BatchNorm's names: buffers named so are taken for running statistics, which travel.
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised x, of its shape."""
        scale = self.weight * torch.rsqrt(self.variance + 1e-3)
        return x * scale[:, None, None] + (self.bias - self.mean * scale)[:, None, None]


class ChannelAffine(nn.Module):
    """weight x + bias, each channel by itself: BatchNorm whose constant statistics are folded in. x: [n, c, ...]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return it, of the shape of x."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        return x * self.weight.view(shape) + self.bias.view(shape)


NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, FrozenNorm, ChannelAffine, nn.modules.batchnorm._BatchNorm)
OF_TIMM = ("RmsNorm", "SimpleNorm", "EvoNorm", "FilterResponseNorm")
"""How the names of timm's own normalisation layers begin."""


def is_norm(layer: nn.Module) -> bool:
    """Whether ``layer`` has scales and shifts that ``model.trainable=norm`` trains."""
    return isinstance(layer, NORMS) or type(layer).__name__.startswith(OF_TIMM)


def norm_layer(norm: str, width: int, group: int = 8) -> nn.Module:
    """Return GroupNorm with groups of ``group`` channels' number, or BatchNorm, over ``width`` channels."""
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(math.gcd(group, width), width)
