"""What synthetic samples give away: do they lie nearer to a site's images than to images it never had?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpssl_fed.audit.attack import RESAMPLES, Estimate, clopper_pearson
from mpssl_fed.data.datasets import Images
from mpssl_fed.generators.base import fit_images
from mpssl_fed.seeds import numpy_rng

CHUNK = 64


@dataclass(frozen=True)
class MemorisationAudit:
    """nearer: share of samples whose nearest image is a training image, 0.5 where nothing is given away; p_value: of a share
    as large by chance; train, held_out: median distance to the nearest image of each side, root mean square a pixel value
    of [-1, 1]; closest: indices of the samples nearest to a training image, and of those images."""

    samples: int
    images: int
    nearer: Estimate
    p_value: float
    train: float
    held_out: float
    closest: tuple[tuple[int, int], ...]


def nearest_neighbours(samples: Tensor, train: Images, held_out: Images, seed: int = 0) -> MemorisationAudit:
    """Return whether ``samples`` [n, C, S, S] in [-1, 1] lie nearer to ``train`` than to ``held_out``, images like them.

    Both sides are cut to the same number, class by class where they can be. The test permutes which images were trained on:
    exact as long as the two sides are otherwise alike. The interval (Clopper-Pearson) is for these images, over samples.
    """
    rng = numpy_rng(seed, "nearest neighbours")
    train, held_out = matched(train, held_out, rng)
    n = len(train)
    if not n or not len(samples):
        raise ValueError(f"{len(samples)} samples, {n} images a side: all are needed")
    pool = torch.cat([train.floats(), held_out.floats()])
    channels, size = train.x.shape[1], train.x.shape[-1]
    distance = distances(fit_images(samples.float().cpu(), channels, size), pool)  # [samples, 2 n]
    counts = np.bincount(distance.argmin(1), minlength=2 * n)
    inside = np.arange(2 * n) < n
    share = _share(counts, inside)
    by_chance = [_share(counts, rng.permutation(inside)) for _ in range(RESAMPLES)]
    to_train = distance[:, :n].min(1)
    closest = tuple((int(i), int(distance[i, :n].argmin())) for i in np.argsort(to_train)[:8])
    return MemorisationAudit(
        len(samples),
        n,
        Estimate(share, *clopper_pearson(int(counts[:n].sum()), len(samples))),
        (1 + sum(other >= share for other in by_chance)) / (1 + RESAMPLES),
        float(np.median(to_train)),
        float(np.median(distance[:, n:].min(1))),
        closest,
    )


def distances(samples: Tensor, images: Tensor) -> NDArray[np.float64]:
    """Return root mean square differences [n, m] of samples [n, C, S, S] and images [m, C, S, S]."""
    flat = images.flatten(1)
    parts = [torch.cdist(some.flatten(1), flat) for some in torch.split(samples, CHUNK)]
    apart: NDArray[np.float64] = (torch.cat(parts) / flat.shape[1] ** 0.5).double().numpy()
    return apart


def matched(train: Images, held_out: Images, rng: np.random.Generator) -> tuple[Images, Images]:
    """Return as many random images of each class from both sides: the smaller number of the two."""
    sides: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    for label in np.unique(train.y.numpy()):
        found = [np.flatnonzero(images.y.numpy() == label) for images in (train, held_out)]
        n = min(len(index) for index in found)
        for side, index in zip(sides, found, strict=True):
            side.append(np.sort(rng.permutation(index)[:n]))
    none = np.empty(0, dtype=np.int64)
    return train.take(np.concatenate([none, *sides[0]])), held_out.take(np.concatenate([none, *sides[1]]))


def _share(counts: NDArray[np.int64], inside: NDArray[np.bool_]) -> float:
    return float(counts[inside].sum() / counts.sum())
