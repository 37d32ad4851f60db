"""How good logits are on labelled images, in single numbers: of all images alike, and of all classes alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Numbers in 0..1, but loss: mean cross-entropy in nats, None where it is not finite; all None where nothing was evaluated.

    accuracy: share of the images named right; balanced: mean over the classes that have images of the share named right; auroc:
    mean over them of the area under the curve of that class's probability against all others (Hand and Till, Machine Learning 45,
    2001, eq. 7 in its one-against-rest form), None where only one class has images or a logit is not finite. Chance: balanced 1 /
    classes, auroc 1/2.
    """

    accuracy: float | None = None
    loss: float | None = None
    balanced: float | None = None
    auroc: float | None = None


def scores(logits: Tensor, y: Tensor) -> Scores:
    """Return the scores of ``logits`` [n, K] against labels ``y`` [n], n at least 1."""
    right = logits.argmax(1) == y
    loss = float(F.cross_entropy(logits, y, reduction="sum")) / len(y)
    support = torch.bincount(y, minlength=logits.shape[1])
    there = torch.nonzero(support).flatten()
    recall = torch.bincount(y[right], minlength=logits.shape[1])[there] / support[there]
    areas = []
    if logits.isfinite().all() and len(there) > 1:
        areas = [area_under_curve(_odds(logits.double(), int(k)), y == k) for k in there]
    return Scores(
        accuracy=int(right.sum()) / len(y),
        loss=loss if math.isfinite(loss) else None,
        balanced=float(recall.double().mean()),
        auroc=math.fsum(areas) / len(areas) if areas else None,
    )


def _odds(logits: Tensor, k: int) -> Tensor:
    """Return log p_k / (1 - p_k) [n], which ranks as p_k does and keeps apart what rounds to 1."""
    return logits[:, k] - torch.cat([logits[:, :k], logits[:, k + 1 :]], 1).logsumexp(1)


def area_under_curve(value: Tensor, positive: Tensor) -> float:
    """Return the share of pairs in which the positive one has the larger ``value`` [n], ties by half (Mann and Whitney 1947).

    positive: bool [n], some of either kind.
    """
    _, place, counts = torch.unique(value, return_inverse=True, return_counts=True)
    rank = (counts.cumsum(0).double() - (counts.double() - 1) / 2)[place]
    n, others = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * others))
