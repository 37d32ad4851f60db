"""What is measured: class probabilities beside the true classes, and whose images they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.errors import UserError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SUM_OFF = 1e-4
"""How far the probabilities of an image may be from 1 in all: those of another program come rounded."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities [n, K] in 0..1 with rows that sum to 1, labels [n] in 0..K-1, names of the K classes, and subjects [n].

    subjects: whose image each is, None where nobody knows. ranks [n, K]: what images are ordered by for the curves of each class,
    where probabilities were rounded to ties (:meth:`of_logits`); else the probabilities. UserError for shapes that do not fit, no
    image, a probability that is not finite or outside 0..1, rows that sum to something else, and labels out of range.
    """

    probabilities: Floats
    labels: Integers
    classes: tuple[str, ...]
    subjects: tuple[str, ...] | None = None
    ranks: Floats | None = None

    def __post_init__(self) -> None:
        p = np.asarray(self.probabilities, dtype=np.float64)
        y = np.asarray(self.labels)
        k = len(self.classes)
        if p.ndim != 2 or p.shape[1] != k or not len(p) or not k:
            raise UserError(f"probabilities have the shape {list(p.shape)}; want [n, {k}], a row an image and a column a class")
        if y.shape != p.shape[:1] or y.dtype.kind not in "iu":
            raise UserError(f"labels are {y.dtype} {list(y.shape)}; want {len(p)} integers, one for each row of probabilities")
        if not np.isfinite(p).all():
            row = int(np.flatnonzero(~np.isfinite(p).all(1))[0])
            raise UserError(f"probabilities of image {row} are not finite; the training of the model diverged, so train it again")
        wrong = np.flatnonzero((p < 0).any(1) | (p > 1 + SUM_OFF).any(1) | (abs(p.sum(1) - 1) > SUM_OFF))
        if len(wrong):
            raise UserError(f"probabilities of image {wrong[0]} sum to {p[wrong[0]].sum():g} or leave 0..1; give softmax outputs")
        outside = np.flatnonzero((y < 0) | (y >= k))
        if len(outside):
            raise UserError(f"label {y[outside[0]]} of image {outside[0]} is out of range 0..{k - 1}")
        if self.subjects is not None and len(self.subjects) != len(p):
            raise UserError(f"{len(p)} images come with {len(self.subjects)} subjects; one each is needed")
        if self.ranks is not None and (self.ranks.shape != p.shape or np.isnan(self.ranks).any()):
            raise UserError(f"ranks have the shape {list(self.ranks.shape)} or are no numbers; want {list(p.shape)}")
        object.__setattr__(self, "probabilities", p)
        object.__setattr__(self, "labels", y.astype(np.int64))

    @staticmethod
    def of_logits(logits: Any, labels: Any, classes: Sequence[str], subjects: Sequence[str] | None = None) -> Predictions:
        """Return those of ``logits`` [n, K], ranked by log p / (1 - p), which orders as p does and keeps apart what rounds to 1."""
        wide = np.asarray(logits, dtype=np.float64)
        if wide.ndim != 2 or not wide.size or not np.isfinite(wide).all():
            raise UserError(f"logits {list(wide.shape)} are empty or not finite; if the model's training diverged, train it again")
        each = np.exp(wide - wide.max(1, keepdims=True))
        owners = None if subjects is None else tuple(subjects)
        return Predictions(each / each.sum(1, keepdims=True), np.asarray(labels), tuple(classes), owners, _odds(wide))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def named(self) -> Integers:
        """The most probable class of each image [n], the first of equals."""
        return np.asarray(self.probabilities.argmax(1), dtype=np.int64)

    @cached_property
    def units(self) -> Integers:
        """Number from 0 on of what is drawn as a whole [n]: each image's subject, else the image itself."""
        if self.subjects is None:
            return np.arange(len(self), dtype=np.int64)
        return np.asarray(np.unique(np.asarray(self.subjects, dtype=str), return_inverse=True)[1], dtype=np.int64)

    def rank(self, k: int) -> Floats:
        """Return what images are ordered by in the curves of class ``k`` [n]."""
        return (self.probabilities if self.ranks is None else self.ranks)[:, k]


def _odds(logits: Floats) -> Floats:
    odds = np.zeros_like(logits)  # of one class alone every image is as sure
    for k in range(logits.shape[1] if logits.shape[1] > 1 else 0):
        others = np.delete(logits, k, 1)
        top = others.max(1)
        odds[:, k] = logits[:, k] - top - np.log(np.exp(others - top[:, None]).sum(1))
    return odds
