"""A few-step diffusion generator: a rectified flow (arXiv 2209.03003) among the principal components of the images.

The noise is z itself. Four Euler steps of a velocity network carry it to the components of an image (a latent diffusion,
arXiv 2112.10752, whose code is linear); a small convolutional network draws it. Every part is smooth, so the sampler is
differentiable in z and in the label.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 32


class FewStepFlow(nn.Module):
    """z [n, z_dim] and soft label [n, K] to the logits l of a grey image, tanh(l)."""

    SIZES: ClassVar[tuple[str, ...]] = ("z_dim", "hidden", "steps")
    mean: Tensor
    basis: Tensor

    def __init__(self, classes: int, z_dim: int, hidden: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("mean", torch.zeros(SIDE * SIDE))
        self.register_buffer("basis", torch.zeros(z_dim, SIDE * SIDE))
        self.label = nn.Linear(classes, 48, bias=False)
        self.enter = nn.Linear(z_dim + 48 + 3, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden)) for _ in range(2)
        )
        self.leave = nn.Linear(hidden, z_dim)
        self.draw = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 1, 3, padding=1)
        )

    def velocity(self, x: Tensor, t: Tensor, soft_label: Tensor) -> Tensor:
        """Return dx/dt [n, z_dim] at components x [n, z_dim] and times t [n, 1] from 0 (noise) to 1 (image)."""
        clock = torch.cat([t, torch.sin(torch.pi * t), torch.cos(torch.pi * t)], 1)
        h = F.silu(self.enter(torch.cat([x, self.label(soft_label), clock], 1)))
        for block in self.blocks:
            h = h + block(h)
        flow: Tensor = self.leave(h)
        return flow

    def flow(self, z: Tensor, soft_label: Tensor, steps: int) -> Tensor:
        """Return the components [n, z_dim] at which ``steps`` Euler steps from z arrive."""
        x = z
        for step in range(steps):
            x = x + self.velocity(x, z.new_full((len(z), 1), step / steps), soft_label) / steps
        return x

    def paint(self, components: Tensor) -> Tensor:
        """Return the image logits [n, 1, 32, 32] of components [n, z_dim]."""
        rough = (self.mean + components @ self.basis).view(-1, 1, SIDE, SIDE)
        logits: Tensor = rough + self.draw(rough)
        return logits

    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        """Return image logits [n, 1, 32, 32]."""
        return self.paint(self.flow(z, soft_label, self.steps))
