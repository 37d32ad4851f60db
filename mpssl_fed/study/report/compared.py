"""A comparison as the cells of a table show it."""

from __future__ import annotations

from mpssl_fed.report.table import NOTHING, TableCell
from mpssl_fed.study.analysis import Analysis
from mpssl_fed.study.arms import Versus
from mpssl_fed.study.headline import unit_of
from mpssl_fed.study.statistics import Comparison, Estimate

Families = tuple[bool, bool]
"""Whether a table holds primary comparisons, and exploratory ones."""

METRICS = {
    "accuracy": "accuracy (%)", "balanced_accuracy": "balanced accuracy (%)", "auroc": "AUROC (%)", "best": "best accuracy (%)",
    "macro_f1": "macro F1 (%)", "average_precision": "average precision (%)", "brier": "Brier score",
    "ece": "expected calibration error (%)", "loss": "loss",
}  # fmt: skip
BESIDE = {"balanced_accuracy": "auroc", "auroc": "balanced_accuracy"}
"""Metric -> one that stands beside it."""


def families_of(found: Analysis) -> Families:
    """Return which families of comparisons a study has; the exploratory one where it has none."""
    return bool(found.primary), bool(found.exploratory) or not found.primary


def comparison_columns(family: Families) -> list[str]:
    """Return the columns of a table that holds these families of comparisons."""
    return ["difference", "p", *["p, corrected"] * family[0], *["q"] * family[1], "verdict"]


def estimate_words(value: Estimate | None, metric: str, sign: str = "") -> str:
    """Return a mean with half of its 95 % interval, in the unit of the metric."""
    if value is None:
        return NOTHING
    scale, digits = unit_of(metric)
    half = f" ± {scale * value.half:.{digits}f}" if value.half is not None else ""
    return f"{scale * value.mean:{sign}.{digits}f}{half}"


def difference_cells(one: Versus | None, metric: str, family: Families) -> list[str | TableCell]:
    """Return the cells of an arm against a baseline, all but the number of pairs."""
    blanks = len(comparison_columns(family)) - 1
    if one is not None and one.itself:
        return [*[""] * blanks, TableCell("baseline")]
    if one is None or one.against is None:
        return [*[NOTHING] * blanks, TableCell("no baseline to compare with")]
    return compared_cells(one.comparison, metric, family)[1:]


def compared_cells(comparison: Comparison | None, metric: str, family: Families) -> list[str | TableCell]:
    """Return number of pairs, difference, p, p corrected or q in its column, and verdict."""
    if comparison is None:
        return ["0", *[NOTHING] * (len(comparison_columns(family)) - 1), TableCell("not finished")]
    corrected = [_p(comparison.corrected) if comparison.primary else ""] * family[0]
    corrected += ["" if comparison.primary else _p(comparison.corrected)] * family[1]
    words = comparison.verdict if comparison.primary else f"{comparison.verdict}, exploratory"
    return [
        str(comparison.difference.n),
        estimate_words(comparison.difference, metric, "+"),
        _p(comparison.p),
        *corrected,
        TableCell(words, comparison.verdict if comparison.differs else ""),
    ]


def _p(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
