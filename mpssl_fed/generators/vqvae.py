"""A VQ-VAE (arXiv 1711.00937) as a generator: a prior maps z and a label to a mixture of codes, the decoder draws it.

The mixture, softmax(logits) over the codebook at each of 8 x 8 places, stands for the draw of one code: it is smooth in z and
in the label, and near one code wherever the prior is sure.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = 8


class VQSampler(nn.Module):
    """Prior, codebook and decoder: z [n, z_dim] and soft label [n, K] to the logits l of a grey image, tanh(l)."""

    SIZES: ClassVar[tuple[str, ...]] = ("z_dim", "hidden", "width", "codes", "code_dim")

    def __init__(self, classes: int, z_dim: int, hidden: int, width: int, codes: int, code_dim: int) -> None:
        super().__init__()
        self.width = width
        self.label = nn.Linear(classes, 48, bias=False)
        self.mix = nn.Sequential(nn.Linear(z_dim + 48, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.spread = nn.Linear(hidden, width * (GRID // 2) ** 2)
        self.refine = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, codes, 1))
        self.codebook = nn.Parameter(torch.randn(codes, code_dim))
        self.decoder = nn.Sequential(
            nn.Conv2d(code_dim, 64, 3, padding=1), nn.SiLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.SiLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1),
        )  # fmt: skip

    def prior(self, z: Tensor, soft_label: Tensor) -> Tensor:
        """Return logits over the codes [n, codes, 8, 8]."""
        mixed = self.spread(self.mix(torch.cat([z, self.label(soft_label)], 1)))
        coarse = F.silu(mixed).view(-1, self.width, GRID // 2, GRID // 2)
        logits: Tensor = self.refine(F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False))
        return logits

    def mixture(self, logits: Tensor) -> Tensor:
        """Return the mean code [n, code_dim, 8, 8] under softmax(logits)."""
        return torch.einsum("nkhw,kd->ndhw", logits.softmax(1), self.codebook)

    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        """Return image logits [n, 1, 32, 32]."""
        logits: Tensor = self.decoder(self.mixture(self.prior(z, soft_label)))
        return logits


class Encoder(nn.Module):
    """Grey images [n, 1, 32, 32] to code vectors [n, code_dim, 8, 8]; used in training alone."""

    def __init__(self, code_dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 4, 2, 1), nn.SiLU(), nn.Conv2d(24, 48, 4, 2, 1), nn.SiLU(), nn.Conv2d(48, code_dim, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return them."""
        codes: Tensor = self.body(x)
        return codes


def nearest(codes: Tensor, codebook: Tensor) -> Tensor:
    """Return the index [n, H, W] of the codebook row nearest to each vector of codes [n, d, H, W]."""
    flat = codes.detach().movedim(1, -1)
    return torch.cdist(flat.flatten(0, 2), codebook.detach()).argmin(1).view(flat.shape[:-1])
