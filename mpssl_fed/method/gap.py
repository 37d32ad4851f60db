"""L_gap: how far synthetic images lie from real ones in the mean of their features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.method.private_data import FeatureMeans

TINY = 1e-12


def gap_loss(real: FeatureMeans, features: Tensor, y: Tensor) -> Tensor:
    """Return L_gap of features [n, d] of synthetic images with task labels y [n]: || mean - mean ||^2 / spread, unbiased.

    The mean over the classes that both sides have, two synthetic images at least; or one distance of global means. The squared
    distance of a mean of n images is too large by their variance / n, which would reward images of a class that are all alike:
    what the images of each class vary is taken off, so that the estimate may fall below 0. Labels are strata of the batch:
    between classes nothing varies. Synthetic features pass the clip that the real ones passed. The spread is the real features'
    or, where that was not read, the synthetic ones', held constant.
    """
    if real.clip is not None:
        features = features * (real.clip / features.norm(dim=1, keepdim=True).clamp_min(TINY)).clamp_max(1)
    one_hot = F.one_hot(y, max(len(real.values), int(y.max()) + 1)).to(features)  # [n, K]
    counts = one_hot.sum(0)
    means = (one_hot.T @ features) / counts.clamp_min(1).unsqueeze(1)  # [K, d]
    scatter = one_hot.T @ (features - one_hot @ means).square().sum(1)  # [K]
    variance = scatter / (counts - 1).clamp_min(1)
    if real.per_class:
        squared = (means - real.values).square().sum(1) - variance / counts.clamp_min(1)
        both = (real.present & (counts >= 2)).to(features)
    else:
        error = (counts * variance).sum() / len(y) ** 2  # of the mean of the strata
        squared = ((features.mean(0) - real.values[0]).square().sum() - error).unsqueeze(0)
        both = real.present.to(features)
    return (squared * both).sum() / both.sum().clamp_min(1) / _spread(real, features)


def _spread(real: FeatureMeans, features: Tensor) -> Tensor:
    known = real.spread is not None and float(real.spread) > 0
    spread = real.spread if known else features.detach().var(0).sum()
    return torch.as_tensor(spread).to(features).clamp_min(TINY)
