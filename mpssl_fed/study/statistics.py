"""Means with intervals over seeds, and paired comparisons that say plainly when a difference is within noise.

The test is the paired t-test: with the 3 to 10 seeds of a study, Wilcoxon's signed-rank test cannot reject at all (its
smallest two-sided p is 0.25 at n = 3 and 0.0625 at n = 5), while the t-test can; it assumes that the differences over seeds
are near normal. Holm's step-down correction covers all comparisons of a study and needs no independence between them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

LEVEL = 0.95
ALPHA = 0.05
FEWEST = 3  # below three pairs the t-test leans on one degree of freedom


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. ``half`` is half the width of the 95 % t-interval, None for a single seed."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Comparison:
    """Arm minus baseline, paired by seed. ``p`` is two-sided, ``p_holm`` corrected over the study; None below two pairs."""

    difference: Estimate
    p: float | None
    p_holm: float | None
    verdict: str


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean and 95 % t-interval of one value per seed; ValueError without a value."""
    if not values:
        raise ValueError("no value to average")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n), n)


def paired_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of the paired t-test on differences by seed; None below two pairs.

    Differences without spread: p is 1 when they are 0, else the limit 0.
    """
    n = len(differences)
    if n < 2:
        return None
    values = np.asarray(differences, dtype=np.float64)
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    if deviation <= 1e-12 * max(1.0, abs(mean)):
        return 1.0 if abs(mean) <= 1e-12 else 0.0
    return float(2 * stats.t.sf(abs(mean) / (deviation / math.sqrt(n)), n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down corrected p-values (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


Key = TypeVar("Key", bound=Hashable)


def compare(pairs: Mapping[Key, Sequence[tuple[float, float]]], higher_is_better: bool = True) -> dict[Key, Comparison]:
    """Return the comparison of each key from its (arm, other) values by seed, Holm-corrected over all of them together."""
    differences = {arm: [value - baseline for value, baseline in values] for arm, values in pairs.items() if values}
    p_values = {arm: paired_p(values) for arm, values in differences.items()}
    tested = [arm for arm, p in p_values.items() if p is not None]
    corrected = dict(zip(tested, holm([p for p in p_values.values() if p is not None]), strict=True))
    results = {}
    for arm, values in differences.items():
        difference = estimate(values)
        p_holm = corrected.get(arm)
        results[arm] = Comparison(difference, p_values[arm], p_holm, verdict(difference, p_holm, higher_is_better))
    return results


def verdict(difference: Estimate, p_holm: float | None, higher_is_better: bool = True) -> str:
    """Return ``better``, ``worse`` or ``within noise``, the last also for fewer than three pairs, whatever their p."""
    if difference.n < FEWEST:
        return f"within noise (n < {FEWEST})"
    if p_holm is None or p_holm >= ALPHA:
        return "within noise"
    return "better" if (difference.mean > 0) == higher_is_better else "worse"
