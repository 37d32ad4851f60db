"""BigGAN on the statistics of the batch at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from pytorch_pretrained_biggan import BigGAN
from pytorch_pretrained_biggan.model import BigGANBatchNorm
from torch import Tensor


class BatchStatistics(BigGANBatchNorm):  # type: ignore[misc]  # its package has no types
    """BigGANBatchNorm with the statistics of the batch at hand; the same parameters and buffers, and it keeps the last."""

    last: tuple[Tensor, Tensor]

    def forward(self, x: Tensor, truncation: float, condition_vector: Tensor | None = None) -> Tensor:
        """Normalise x [n, C, H, W]; ``truncation`` is the package's signature and does not matter here."""
        if not torch.is_grad_enabled():
            self.last = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        if condition_vector is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        weight = 1 + self.scale(condition_vector)[..., None, None]
        bias = self.offset(condition_vector)[..., None, None]
        return torch.addcmul(bias, F.batch_norm(x, None, None, training=True, eps=self.eps), weight)


@contextmanager
def batch_statistics(model: BigGAN) -> Iterator[list[BatchStatistics]]:
    """Let every norm of ``model`` use batch statistics inside the block; the package's own class before and after."""
    norms = [module for module in model.modules() if isinstance(module, BigGANBatchNorm)]
    for norm in norms:
        norm.__class__ = BatchStatistics
    try:
        yield norms
    finally:
        for norm in norms:
            norm.__class__ = BigGANBatchNorm
