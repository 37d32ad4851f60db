"""The metrics that a study may compare its arms by: which way is better, and in which unit they are told."""

from __future__ import annotations

from typing import Literal

Metric = Literal[
    "accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "brier", "ece", "best", "loss"
]  # fmt: skip

OF_EVALUATION = ("macro_f1", "average_precision", "brier", "ece")
"""Those that a run's evaluation.json holds; the others stand in each round."""
LOWER_IS_BETTER = frozenset({"loss", "brier", "ece"})
NO_SHARES = frozenset({"loss", "brier"})


def higher_is_better(metric: str) -> bool:
    """Whether an arm with more of a metric is the better one."""
    return metric not in LOWER_IS_BETTER


def unit_of(metric: str) -> tuple[int, int]:
    """Return (what values are multiplied by, decimals) where a metric is told: shares in percent, others as they are."""
    return (1, 3) if metric in NO_SHARES else (100, 1)
