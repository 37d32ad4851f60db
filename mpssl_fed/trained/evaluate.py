"""How good a classifier is on labelled images, and whether its probabilities mean what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.caller import apart_from_caller
from mpssl_fed.data.folder import check_subjects, list_classes
from mpssl_fed.data.listing import once
from mpssl_fed.data.walk import Skipped
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown, some
from mpssl_fed.trained.load import Trained

BINS = 10
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Bin:
    """A bin of the reliability table: images whose top probability is in (low, high], its mean, and the share right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """Results on n labelled images over K classes.

    interval: Wilson's 95 % interval of the accuracy. recall: share of each class's images named right, None for a class without
    an image. confusion [K][K]: images of row's class that were named column's class. ece: expected calibration error in 0..1,
    see :func:`score`. loss: mean cross-entropy in nats.
    """

    classes: tuple[str, ...]
    images: int
    accuracy: float
    interval: tuple[float, float]
    loss: float
    recall: dict[str, float | None]
    support: dict[str, int]
    confusion: list[list[int]]
    confidence: float
    ece: float
    reliability: list[Bin]

    def mistakes(self) -> list[tuple[int, str, str]]:
        """Return (images, their class, the class they were named) off the diagonal, the commonest first."""
        rows = enumerate(self.confusion)
        cells = [(n, self.classes[i], self.classes[j]) for i, row in rows for j, n in enumerate(row) if n and i != j]
        return sorted(cells, key=lambda cell: -cell[0])

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return asdict(self)


@apart_from_caller()
def evaluate_folder(
    trained: Trained, folder: str | Path, bins: int = BINS, subjects: str | None = None, skipped: Skipped | None = None
) -> Evaluation:
    """Evaluate on ``folder/CLASS/*.png|jpg|...``; it may lack some of the classes. ``subjects="parent"``: CLASS/SUBJECT/*.

    ``skipped``, where given, gets what was left out; links to and copies of an image count once. Raises UserError for a missing
    folder, a folder that is none of the classes, a class that lost all its images, no image at all, or a broken file.
    """
    check_subjects(subjects)
    skipped = Skipped() if skipped is None else skipped
    listing = once(list_classes(expanded(folder), trained.classes, subjects, skipped), skipped, trained.classes)
    if not listing:
        raise UserError(f"folder {shown(folder)} has no image; expected CLASS/*.png with CLASS among {some(trained.classes)}")
    logits = torch.cat([part for _, part in trained.batches([path for path, _, _ in listing])])
    return score(logits, torch.tensor([label for _, label, _ in listing]), trained.classes, bins)


def score(logits: Tensor, y: Tensor, classes: Sequence[str], bins: int = BINS) -> Evaluation:
    """Return the evaluation of ``logits`` [n, K] against labels ``y`` [n] (n at least 1).

    ECE = sum over bins of (n_b / n) |accuracy_b - mean top probability_b|, with ``bins`` equal bins of (0, 1] (Guo et al., On
    Calibration of Modern Neural Networks, ICML 2017, eq. 3). Empty bins are left out of the table.
    """
    n, k = len(y), len(classes)
    top, named = logits.double().softmax(1).max(1)
    right = named == y
    confusion = torch.bincount(y * k + named, minlength=k * k).view(k, k)
    support = confusion.sum(1)
    table = _reliability(top, right, bins)
    return Evaluation(
        classes=tuple(classes),
        images=n,
        accuracy=int(right.sum()) / n,
        interval=wilson(int(right.sum()), n),
        loss=float(F.cross_entropy(logits.double(), y)),
        recall={name: int(confusion[i, i]) / int(support[i]) if support[i] else None for i, name in enumerate(classes)},
        support={name: int(support[i]) for i, name in enumerate(classes)},
        confusion=confusion.tolist(),
        confidence=float(top.mean()),
        ece=math.fsum(row.images / n * abs(row.accuracy - row.confidence) for row in table),
        reliability=table,
    )


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion ``right / n``, within [0, 1] (Wilson, JASA 22, 1927); n at least 1."""
    from scipy.stats import binomtest  # here: it takes a second to import

    found = binomtest(right, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def _reliability(top: Tensor, right: Tensor, bins: int) -> list[Bin]:
    where = (top * bins).ceil().long().clamp(1, bins) - 1
    rows = []
    for b in range(bins):
        inside = where == b
        if inside.any():
            confidence, accuracy = float(top[inside].mean()), float(right[inside].double().mean())
            rows.append(Bin(b / bins, (b + 1) / bins, int(inside.sum()), confidence, accuracy))
    return rows
