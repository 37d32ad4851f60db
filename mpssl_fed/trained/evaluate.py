"""How good a classifier is on labelled images, and whether its probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.caller import apart_from_caller
from mpssl_fed.data.folder import check_subjects, list_classes
from mpssl_fed.data.listing import Listing, once
from mpssl_fed.data.site_csv import natural_order
from mpssl_fed.data.walk import Skipped
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError
from mpssl_fed.metrics import Bin, Metrics, Predictions, measure, wilson
from mpssl_fed.metrics.bootstrap import RESAMPLES
from mpssl_fed.metrics.points import BINS
from mpssl_fed.names import shown, some
from mpssl_fed.trained.lists import evaluated
from mpssl_fed.trained.load import Trained

__all__ = ["BINS", "AtSite", "Bin", "Evaluation", "evaluate_folder", "evaluate_list", "score", "wilson"]


@dataclass(frozen=True)
class AtSite:
    """Accuracy on the images of one site, with Wilson's 95 % interval; name None: of the images that name no site."""

    name: str | None
    images: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Evaluation:
    """Results on n labelled images over K classes.

    interval: Wilson's 95 % interval of the accuracy. recall: share of each class's images named right, None for a class without
    an image. confusion [K][K]: images of row's class that were named column's class. ece: expected calibration error in 0..1,
    see :func:`mpssl_fed.metrics.points.ece`. loss: mean cross-entropy in nats. metrics: what clinical users report, with intervals.
    sites: of a list with a column ``site``, by name.
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
    metrics: Metrics
    sites: list[AtSite] | None = None

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
    return _of(trained, listing, bins, subjects is not None)[0]


@apart_from_caller()
def evaluate_list(
    trained: Trained, file: str | Path, bins: int = BINS, subjects: str | None = None, skipped: Skipped | None = None
) -> Evaluation:
    """Evaluate on the images that a list ``path,label[,subject][,site][,split]`` names: with a column ``split`` on its test images.

    Equal to the bit to :func:`evaluate_folder` of the same images, whatever the order of the lines. subjects:
    ``dicom-patient-id`` takes the patients of its DICOM files, where the list names no subjects. ``skipped``, where given, gets
    what was left out, training images too. Raises UserError with the line number as :func:`mpssl_fed.data.site_csv.read_list`.
    """
    found = evaluated(expanded(file), trained.classes, subjects, Skipped() if skipped is None else skipped)
    result, right = _of(trained, found.rows, bins, found.with_subjects)
    return result if found.sites is None else replace(result, sites=_by_site(found.sites, right))


def _of(trained: Trained, listing: Listing, bins: int, with_subjects: bool) -> tuple[Evaluation, list[bool]]:
    """Return the evaluation on the listing, and which of its images [n] were named right."""
    paths, labels, owners = zip(*listing, strict=True)
    logits, y = torch.cat([part for _, part in trained.batches(paths)]), torch.tensor(labels)
    right: list[bool] = (_named(logits)[1] == y).tolist()
    return score(logits, y, trained.classes, bins, owners if with_subjects else None), right


def _by_site(sites: Sequence[str | None], right: Sequence[bool]) -> list[AtSite]:
    names: list[str | None] = [*natural_order(name for name in sites if name is not None), *([None] if None in sites else [])]
    found = []
    for name in names:
        here = [one for one, site in zip(right, sites, strict=True) if site == name]
        found.append(AtSite(name, len(here), sum(here) / len(here), wilson(sum(here), len(here))))
    return found


def _named(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return (probability, class) [n] of the most probable class of each image."""
    top, named = logits.double().softmax(1).max(1)
    return top, named


def score(
    logits: Tensor,
    y: Tensor,
    classes: Sequence[str],
    bins: int = BINS,
    subjects: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Return the evaluation of ``logits`` [n, K] against labels ``y`` [n] (n at least 1), ``subjects`` [n] being whose images.

    See :func:`mpssl_fed.metrics.measure` for bins, resamples and intervals.
    """
    n, k = len(y), len(classes)
    metrics = measure(Predictions.of_logits(logits.double().numpy(), y.numpy(), classes, subjects), bins, resamples)
    top, named = _named(logits)
    right = named == y
    confusion = torch.bincount(y * k + named, minlength=k * k).view(k, k)
    support = confusion.sum(1)
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
        ece=metrics.overall["ece"].value or 0.0,
        reliability=metrics.reliability,
        metrics=metrics,
    )
