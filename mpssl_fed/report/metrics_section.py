"""What a report shows of the metrics that clinical users report: all images, each class, calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpssl_fed.metrics import NAMES, Metrics, Value
from mpssl_fed.names import shown
from mpssl_fed.report import plots
from mpssl_fed.report.table import NOTHING, Table, make_table
from mpssl_fed.runs.reader import RunReader


def metrics_sections(run: RunReader, plot_folder: Path) -> list[dict[str, Any]]:
    """Return the sections of a run's final model; none where nothing was measured."""
    found = run.metrics
    if found is None:
        return []
    images = f"{found.images:,} {run.held_out} images"
    of = images if found.subjects is None else f"{images} of {found.subjects:,} {'subject' if found.subjects == 1 else 'subjects'}"
    classes = f"Each class against all others. {_of_intervals(found)}"
    bins = ["probability of the named class", "images", "mean probability", "share right"]
    lines = [
        [f"{100 * one.low:g}–{100 * one.high:g} %", str(one.images), f"{100 * one.confidence:.1f} %", f"{100 * one.accuracy:.1f} %"]
        for one in found.reliability
    ]
    calibration = {
        "title": "Calibration",
        "note": "Whether probabilities mean what they say: of images named with 80 %, 8 in 10 should be right.",
        "svg": plots.reliability(plot_folder, found.reliability),
        "table": make_table(bins, lines, bins[:1]),
    }
    return [
        {"title": "Metrics", "note": f"The final model on {of}. {intervals_words(found)}", "table": overall_table(found)},
        {"title": "Metrics by class", "note": classes, "table": class_table(found)},
        calibration,
    ]


def intervals_words(found: Metrics) -> str:
    """Return in a sentence or two where the 95 % intervals come from."""
    drawn = "images" if found.subjects is None else "subjects"
    if not found.resamples:
        return f"With fewer than two {drawn} nothing can be said of the spread."
    said = f"95 % intervals: spread over {found.resamples:,} draws of whole {drawn}, with replacement"
    own = found.subjects is None or found.subjects == found.images
    return said + (", but for accuracy, whose is Wilson's." if own else ": images of one person are not independent.")


def _of_intervals(found: Metrics) -> str:
    own = found.subjects is None or found.subjects == found.images
    return "Intervals of sensitivity and specificity are Wilson's." if own else "Intervals are of subjects drawn whole."


def overall_table(found: Metrics) -> Table:
    """Return the metrics of all images."""
    lines = [[NAMES.get(name, name), *_number(name, value)] for name, value in found.overall.items()]
    return make_table(["metric", "value", "95 % interval"], lines, ["metric"])


def class_table(found: Metrics) -> Table:
    """Return the metrics of each class."""
    lines = [
        [shown(one.name), str(one.images), *map(_both, (one.sensitivity, one.specificity, one.auroc, one.average_precision))]
        for one in found.classes
    ]
    return make_table(["class", "images", "sensitivity", "specificity", "AUROC", "average precision"], lines, ["class"])


def _both(value: Value) -> str:
    number, interval = _number("", value)
    return number if interval == NOTHING else f"{number} ({interval})"


def _number(name: str, value: Value) -> tuple[str, str]:
    """Return a value and its interval as a table shows them: shares in percent."""
    scale, digits, unit = (1, 3, "") if name == "brier" else (100, 1, " %")
    if value.value is None:
        return NOTHING, NOTHING
    number = f"{scale * value.value:.{digits}f}{unit}"
    if value.low is None or value.high is None:
        return number, NOTHING
    return number, f"{scale * value.low:.{digits}f}–{scale * value.high:.{digits}f}{unit}"
