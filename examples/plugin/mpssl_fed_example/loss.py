"""Barlow Twins (arXiv 2103.03230) as an unsupervised loss on the features of two views."""

from __future__ import annotations

import torch
from torch import Tensor

from mpssl_fed.config.learning import Method
from mpssl_fed.errors import UserError
from mpssl_fed.method.losses import FeatureLoss


def barlow_twins_loss(method: Method, classes: int) -> FeatureLoss:  # noqa: ARG001  a feature loss needs no class
    """Return the loss; ``method.options.off_diagonal`` weighs the redundancy term (default 0.005, the paper's)."""
    unknown = set(method.options) - {"off_diagonal"}
    if unknown:
        raise UserError(f"method.options: barlow-twins has no option {', '.join(sorted(unknown))}; it has off_diagonal")
    weight = float(method.options.get("off_diagonal", 0.005))
    return FeatureLoss(lambda weak, strong: barlow_twins(weak, strong, weight), additive=False)


def barlow_twins(weak: Tensor, strong: Tensor, off_diagonal: float) -> Tensor:
    """Return sum_i (1 - C_ii)^2 + off_diagonal x sum_{i != j} C_ij^2 for C, the correlations of features [n, d] of two views."""
    first, second = (_standardised(x) for x in (weak, strong))
    correlation = first.T @ second / len(weak)
    on = torch.diagonal(correlation)
    return (1 - on).square().sum() + off_diagonal * (correlation.square().sum() - on.square().sum())


def _standardised(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred / (centred.square().mean(0) + 1e-4).sqrt()
