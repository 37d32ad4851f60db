"""The augmentations of a task: weak and strong views, the labelled batch's own, and the plain image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mpssl_fed.data import augment


class Views:
    """Augmentations for images that the classifier sees at ``size`` px; ``flip``: a mirrored image keeps its label."""

    def __init__(self, flip: bool, size: int) -> None:
        self.flip, self.size = flip, size

    def weak(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return the weak view of x [n, C, H, W], drawn from ``rng``: [n, C, size, size]."""
        return augment.weak(x, rng, self.flip, self.size)

    def strong(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return the strong view."""
        return augment.strong(x, rng, self.flip, self.size)

    def labelled(self, name: str) -> Callable[[Tensor, torch.Generator], Tensor]:
        """Return the augmentation ``none``, ``weak`` or ``half-strong`` of a labelled batch; the first draws nothing."""
        if name == "none":
            return lambda x, _: self.plain(x)
        function = augment.weak if name == "weak" else augment.half_strong
        return lambda x, rng: function(x, rng, self.flip, self.size)

    def plain(self, x: Tensor) -> Tensor:
        """Return the centre crop that an image stored larger than the classifier's input passes unaugmented."""
        margin = (x.shape[-1] - self.size) // 2
        return x[..., margin : margin + self.size, margin : margin + self.size] if margin > 0 else x

    def fixed_pair(self, n: int, rng: torch.Generator) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Draw both views of n images once; the function applies those of the places ``index`` to x [m, C, H, W]."""
        weak, strong = augment.draw(n, rng), augment.draw(n, rng)
        return lambda x, index: (
            augment.apply_weak(x, weak[index], self.flip, self.size),
            augment.apply_strong(x, strong[index], self.flip, self.size),
        )
