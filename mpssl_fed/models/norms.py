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


INDEPENDENT = (nn.GroupNorm, FrozenNorm)
"""Layers that give for an image what they would give for it alone: what may train under differential privacy."""

NORMS = (*INDEPENDENT, nn.modules.batchnorm._BatchNorm)
"""Layers whose scales and shifts ``model.trainable=norm`` trains."""


def norm_layer(norm: str, width: int, group: int = 8) -> nn.Module:
    """Return GroupNorm with groups of ``group`` channels' number, or BatchNorm, over ``width`` channels."""
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(math.gcd(group, width), width)
