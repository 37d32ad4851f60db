"""The metrics of a table of predictions, by scikit-learn; None for what the table cannot say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpssl_fed.metrics.predictions import Predictions

BINS = 10

OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "brier", "ece")
"""Metrics of all images, in the order in which they are told."""
OF_A_CLASS = ("sensitivity", "specificity", "auroc", "average_precision")
NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
"""What they are called."""
LOWER_IS_BETTER = frozenset({"brier", "ece"})

Number = float | None


@dataclass(frozen=True)
class Bin:
    """A bin of the reliability table: images whose top probability is in (low, high], its mean, and the share right."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def overall(found: Predictions, bins: int = BINS) -> dict[str, Number]:
    """Return :data:`OVERALL` -> value of all images, see :func:`points`."""
    return points(found, bins)[0]


def points(found: Predictions, bins: int = BINS) -> tuple[dict[str, Number], list[dict[str, Number]]]:
    """Return :data:`OVERALL` -> value, and for each class :data:`OF_A_CLASS` -> value, of it against all others; all in 0..1.

    sensitivity: None without an image of the class; specificity: without one of another; auroc, average_precision: without both.
    balanced_accuracy: mean sensitivity of the classes that have images. macro_f1: over the classes that have images or are named.
    auroc, average_precision of all images: mean over the classes for which they are known. brier: mean squared distance of the
    probabilities from the truth, of two classes that of one of them, of more summed over classes (0..2; Brier 1950). ece: see
    :func:`ece`.
    """
    from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, multilabel_confusion_matrix

    y, named, k = found.labels, found.named, len(found.classes)
    classes = []
    for index, ((tn, fp), (fn, tp)) in enumerate(multilabel_confusion_matrix(y, named, labels=range(k)).tolist()):
        areas = _areas(found, index) if tp + fn and tn + fp else (None, None)
        of_it = (tp / (tp + fn) if tp + fn else None, tn / (tn + fp) if tn + fp else None, *areas)
        classes.append(dict(zip(OF_A_CLASS, of_it, strict=True)))
    p = np.clip(found.probabilities, 0, 1)
    p /= p.sum(1, keepdims=True)
    truth, p = (y == 1, p[:, 1]) if k == 2 else (y, p)
    return {
        "accuracy": float(accuracy_score(y, named)),
        "balanced_accuracy": mean([one["sensitivity"] for one in classes]),
        "macro_f1": float(f1_score(y, named, average="macro", zero_division=0.0)),
        "auroc": mean([one["auroc"] for one in classes]),
        "average_precision": mean([one["average_precision"] for one in classes]),
        "brier": float(brier_score_loss(truth, p, labels=None if k == 2 else range(k))) if k > 1 else None,
        "ece": ece(reliability(found, bins)),
    }, classes


def _areas(found: Predictions, k: int) -> tuple[float, float]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, rank = found.labels == k, found.rank(k)
    return float(roc_auc_score(truth, rank)), float(average_precision_score(truth, rank))


def mean(values: Sequence[Number]) -> Number:
    """Return the mean of the known values, None where none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def reliability(found: Predictions, bins: int = BINS) -> list[Bin]:
    """Return the images by their top probability in ``bins`` equal bins of (0, 1], those without an image left out."""
    top, right = found.probabilities.max(1), found.named == found.labels
    where = np.clip(np.ceil(top * bins).astype(np.int64), 1, bins) - 1
    rows = []
    for b in np.unique(where).tolist():
        inside = where == b
        rows.append(Bin(b / bins, (b + 1) / bins, int(inside.sum()), float(top[inside].mean()), float(right[inside].mean())))
    return rows


def ece(table: Sequence[Bin]) -> float:
    """Return the expected calibration error in 0..1: the sum over bins of (n_b / n) |share right - mean probability|.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3. Of few images it is too large by luck.
    """
    n = sum(row.images for row in table)
    return math.fsum(row.images / n * abs(row.accuracy - row.confidence) for row in table)
