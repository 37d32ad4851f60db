"""D = D_train + D_val: what of a site's labelled images the meta-objective validates on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpssl_fed.data.datasets import Images


@dataclass(frozen=True, eq=False)
class Split:
    """D_train and D_val. again [images of val] bool: an image that D_train holds too and that is validated on another view."""

    train: Images
    val: Images
    again: np.ndarray

    @staticmethod
    def none(images: Images) -> Split:
        """Return D_train = D_val = D, plain images validated on: the split of differential privacy and of who never validates."""
        return Split(images, images, np.zeros(len(images), dtype=bool))

    @staticmethod
    def of(images: Images, fraction: float, rng: np.random.Generator) -> Split:
        """Return the split of :func:`split_validation`."""
        train, val = split_validation(images.y.numpy(), fraction, rng, images.subjects)
        return Split(images.take(train), images.take(val), np.isin(val, train))


def held_out(n: int, fraction: float) -> int:
    """Return how many of a class's n images D_val gets: the fraction of them, at least one of two, at most half."""
    return min(max(1, round(fraction * n)), n // 2) if fraction else 0


def split_validation(
    y: np.ndarray, fraction: float, rng: np.random.Generator, subjects: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted index arrays (D_train, D_val) of images with labels y [n]; each class of D_train is in D_val too.

    A class of n images gives ``held_out(n, fraction)`` to D_val, or fewer where its subjects, which stay whole, do not add up to
    it. A class that gives none (one image, one subject, fraction 0) stays in D_train, and as many of its images as it should have
    given, at least one, stand in D_val as well: their other views are validated on.
    """
    _, subject = np.unique(np.arange(len(y)) if subjects is None else np.asarray(subjects, dtype=str), return_inverse=True)
    labels, y = np.unique(y, return_inverse=True)
    members = np.split(np.argsort(subject, kind="stable"), np.cumsum(np.bincount(subject))[:-1])
    sizes = np.bincount(y, minlength=len(labels))
    taken, held = np.zeros_like(sizes), np.zeros(len(members), dtype=bool)
    for label, size in enumerate(sizes.tolist()):
        for candidate in rng.permutation(np.unique(subject[y == label])):
            if taken[label] >= held_out(size, fraction):
                break
            after = taken + np.bincount(y[members[candidate]], minlength=len(labels))
            if not held[candidate] and (after <= sizes // 2).all():
                held[candidate], taken = True, after
    val = [np.flatnonzero(held[subject])]
    for label in np.flatnonzero(taken == 0).tolist():
        mine = np.flatnonzero(y == label)
        val.append(rng.permutation(mine)[: max(1, round(fraction * len(mine))) if fraction else len(mine)])
    return np.flatnonzero(~held[subject]), np.sort(np.concatenate(val))
