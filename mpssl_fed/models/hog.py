"""Histograms of oriented gradients (Dalal and Triggs, CVPR 2005): a frozen hand-made feature, constants public."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.errors import UserError


class HOG(nn.Module):
    """HOG of the grey image resized to 32 px: cells of 4 px, 9 unsigned orientations, blocks of 2x2 cells in steps of one.

    Each block is L2-normalised, cut at 0.2 and normalised again (L2-Hys), so every block has norm at most 1 whatever the
    image: [n, C, S, S] in [-1, 1] -> [n, 1764].
    """

    side, cell, bins = 32, 4, 9
    feature_dim = (side // cell - 1) ** 2 * 4 * bins

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < self.cell * 2:
            raise UserError(f"data.size={size}: hog wants {self.cell * 2} px or more")

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [n, 1764]."""
        grey = x.mean(1, keepdim=True)
        if grey.shape[-1] != self.side:
            grey = F.interpolate(grey, (self.side, self.side), mode="bilinear", antialias=True)
        padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
        dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
        dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
        magnitude = (dx.square() + dy.square()).sqrt()
        position = torch.atan2(dy, dx).remainder(math.pi) * (self.bins / math.pi)  # in [0, bins)
        centres = torch.arange(self.bins, device=x.device, dtype=x.dtype).view(1, -1, 1, 1) + 0.5
        distance = (position - centres).abs()
        distance = torch.minimum(distance, self.bins - distance)  # orientations wrap around
        cells = F.avg_pool2d(magnitude * (1 - distance).clamp_min(0), self.cell)  # [n, bins, 8, 8]
        blocks = F.unfold(cells, 2)  # [n, 4 bins, 49]
        blocks = F.normalize(F.normalize(blocks, dim=1, eps=1e-3).clamp_max(0.2), dim=1, eps=1e-3)
        return blocks.flatten(1)
