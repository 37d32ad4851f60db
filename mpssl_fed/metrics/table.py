"""The table of metrics: each with its 95 % interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mpssl_fed.metrics import bootstrap
from mpssl_fed.metrics.bootstrap import RESAMPLES, Interval
from mpssl_fed.metrics.points import BINS, OF_A_CLASS, Bin, points, reliability
from mpssl_fed.metrics.predictions import Predictions
from mpssl_fed.metrics.wilson import wilson


@dataclass(frozen=True)
class Value:
    """A number and its 95 % interval; None for what the images cannot say."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassMetrics:
    """A class against all others: its images, how many were named it, and its metrics in 0..1.

    sensitivity, specificity: with Wilson's intervals, for which every image is a draw of its own; where subjects have several
    images, by resampling subjects. auroc, average_precision: by resampling.
    """

    name: str
    images: int
    named: int
    sensitivity: Value
    specificity: Value
    auroc: Value
    average_precision: Value


@dataclass(frozen=True)
class Metrics:
    """The metrics of n images. overall: name -> value, see :func:`mpssl_fed.metrics.points.overall`; ece has no interval.

    subjects: how many there are, None where they are not known. resamples: of subjects, else of images, behind the intervals;
    0 with less than two of them. The interval of the accuracy is Wilson's unless subjects have several images.
    """

    images: int
    subjects: int | None
    resamples: int
    overall: dict[str, Value]
    classes: list[ClassMetrics]
    reliability: list[Bin]

    def value(self, name: str) -> float | None:
        """Return a metric of all images; None where it is not known."""
        return self.overall[name].value if name in self.overall else None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return asdict(self)

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Metrics:
        """Return the metrics of :meth:`to_json`; TypeError, KeyError or ValueError for fields that are none."""
        classes = [
            ClassMetrics(str(one["name"]), int(one["images"]), int(one["named"]), *(_value(one[name]) for name in OF_A_CLASS))
            for one in fields["classes"]
        ]
        return Metrics(
            images=int(fields["images"]),
            subjects=None if fields["subjects"] is None else int(fields["subjects"]),
            resamples=int(fields["resamples"]),
            overall={str(name): _value(one) for name, one in fields["overall"].items()},
            classes=classes,
            reliability=[_bin(one) for one in fields["reliability"]],
        )


def measure(found: Predictions, bins: int = BINS, resamples: int = RESAMPLES, seed: int = 0) -> Metrics:
    """Return the metrics of predictions with 95 % intervals.

    Those by resampling draw subjects whole, where they are known, and images elsewhere, ``resamples`` times (fewer of very many
    images or classes, see :mod:`mpssl_fed.metrics.bootstrap`), by ``seed`` alone. bins: of the reliability table.
    """
    values, of_classes = points(found, bins)
    drawn, done = bootstrap.intervals(found, resamples, seed)
    units = int(found.units.max()) + 1
    apart = units == len(found)
    right = int((found.named == found.labels).sum())
    by_drawing = {name: _with(value, drawn.get(name)) for name, value in values.items()}
    if apart:
        by_drawing["accuracy"] = _with(values["accuracy"], wilson(right, len(found)))
    return Metrics(
        images=len(found),
        subjects=None if found.subjects is None else units,
        resamples=done,
        overall=by_drawing,
        classes=[_of_class(found, k, one, drawn, apart) for k, one in enumerate(of_classes)],
        reliability=reliability(found, bins),
    )


def _of_class(
    found: Predictions, k: int, points_: dict[str, float | None], drawn: dict[str, Interval | None], apart: bool
) -> ClassMetrics:
    truth, named = found.labels == k, found.named == k
    known = {name: _with(value, drawn.get(f"{name} {k}")) for name, value in points_.items()}
    counts = {
        "sensitivity": (int((truth & named).sum()), int(truth.sum())),
        "specificity": (int((~truth & ~named).sum()), int((~truth).sum())),
    }
    for name, (right, n) in counts.items():
        if apart and n:
            known[name] = _with(known[name].value, wilson(right, n))
    return ClassMetrics(found.classes[k], int(truth.sum()), int(named.sum()), **known)


def _with(value: float | None, interval: Interval | None) -> Value:
    return Value(value) if value is None or interval is None else Value(value, *interval)


def _value(fields: dict[str, Any]) -> Value:
    numbers = [None if fields[key] is None else float(fields[key]) for key in ("value", "low", "high")]
    return Value(*numbers)


def _bin(fields: dict[str, Any]) -> Bin:
    low, high, confidence, accuracy = (float(fields[key]) for key in ("low", "high", "confidence", "accuracy"))
    return Bin(low, high, int(fields["images"]), confidence, accuracy)
