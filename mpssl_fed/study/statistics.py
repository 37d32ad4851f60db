"""Means with intervals over seeds, and paired comparisons that say plainly when a difference is within noise.

The test is the paired t-test: with the 3 to 10 seeds of a study, Wilcoxon's signed-rank test cannot reject at all (its
smallest two-sided p is 0.25 at n = 3 and 0.0625 at n = 5), while the t-test can; it assumes that the differences over seeds
are near normal.

Comparisons that a study declares before it runs, its primary ones, are few and are corrected by Holm's step-down method among
themselves: the chance of any false one is at most 5 %, and no independence is needed. All others are exploratory and get
q-values (Benjamini and Hochberg 1995): of those called better or worse, about 5 % are false. Neither pays for the other.

Where seeds were added until an interval was narrow (``sequential``), the variance is that of the first stage alone, the seeds that
every arm gets, with their degrees of freedom (Stein 1945). How many were added then depends on that variance only, which tells
nothing of a normal sample's mean: interval and p are exact whatever the spread, so adding seeds can favour no sign. The
plain t-interval of all seeds after stopping on its own width (Chow and Robbins 1965) holds only approximately, because it stops
where the variance happens to look small: from 10 seeds to 20 it covers 93.8 % at worst, a type-1 error of 6.2 %
(40,000 simulated studies; ``tests/study/test_sequential.py`` repeats both on 2,000).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

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
    """Arm minus other arm, paired by seed.

    ``p`` is two-sided; ``corrected`` is Holm's p over the primary comparisons for a primary one, else the q-value over the
    exploratory ones. Both are None below two pairs.
    """

    difference: Estimate
    p: float | None
    corrected: float | None
    verdict: str
    primary: bool = False

    @property
    def differs(self) -> bool:
        """Whether the difference is beyond noise."""
        return self.verdict in ("better", "worse")

    def mirrored(self) -> Comparison:
        """Return the same comparison, other arm minus arm."""
        turned = {"better": "worse", "worse": "better"}.get(self.verdict, self.verdict)
        difference = Estimate(-self.difference.mean, self.difference.half, self.difference.n)
        return Comparison(difference, self.p, self.corrected, turned, self.primary)


@dataclass(frozen=True)
class Paired:
    """(arm, other) values by seed: of the first stage, the seeds that every arm gets, and of the seeds that were added to it."""

    first: Sequence[tuple[float, float]]
    added: Sequence[tuple[float, float]] = ()

    def differences(self) -> tuple[list[float], list[float]]:
        """Return arm minus other of the first stage and of what was added; all as one stage where the first has no spread."""
        first, added = ([value - other for value, other in stage] for stage in (self.first, self.added))
        return (first, added) if len(first) > 1 and not _without_spread(first) else (first + added, [])


def estimate(values: Sequence[float], added: Sequence[float] = ()) -> Estimate:
    """Return mean and 95 % t-interval of one value per seed; ValueError without a value.

    ``added``: values of seeds that were added because of the spread of ``values``; they count for the mean alone (Stein 1945).
    """
    if not values:
        raise ValueError("no value to average")
    n = len(values) + len(added)
    mean = math.fsum([*values, *added]) / n
    if len(values) == 1:
        return Estimate(mean, None, n)
    return Estimate(mean, half_width(values, n), n)


def half_width(values: Sequence[float], n: int) -> float:
    """Return half the width of the 95 % interval of a mean over n seeds whose variance is that of ``values``, two or more."""
    if _without_spread(values):
        return 0.0
    from scipy import stats  # here: it takes a second, which a worker need not spend

    return float(stats.t.isf((1 - LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1)) / math.sqrt(n)


def paired_p(differences: Sequence[float], added: Sequence[float] = ()) -> float | None:
    """Return the two-sided p of the paired t-test on differences by seed; None below two pairs.

    Differences without spread: p is 1 when they are 0, else the limit 0. ``added`` as in :func:`estimate`.
    """
    if len(differences) < 2:
        return None
    mean = math.fsum([*differences, *added]) / (len(differences) + len(added))
    if _without_spread(differences):
        return 1.0 if abs(mean) <= 1e-12 else 0.0
    from scipy import stats

    if not added:
        return float(stats.ttest_1samp(differences, 0.0).pvalue)
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences) + len(added))
    return float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1))


def _without_spread(values: Sequence[float]) -> bool:
    return bool(np.std(values, ddof=1) <= 1e-12 * max(1.0, abs(float(np.mean(values)))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down corrected p-values (Holm 1979), in the order given. SciPy has none."""
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def q_values(p_values: Sequence[float]) -> list[float]:
    """Return Benjamini and Hochberg's q-values, in the order given."""
    if not p_values:
        return []
    from scipy import stats

    return [float(q) for q in stats.false_discovery_control(p_values, method="bh")]


Key = TypeVar("Key", bound=Hashable)


def compare(pairs: Mapping[Key, Paired], primary: Collection[Key] = (), higher_is_better: bool = True) -> dict[Key, Comparison]:
    """Return the comparison of each key that has a pair of values: those in ``primary`` corrected by Holm among themselves, the
    others by their q-value. A primary one without a p yet counts among them all the same, as if its p were 1."""
    stages = {key: values.differences() for key, values in pairs.items() if values.first or values.added}
    p_values = {key: paired_p(*stage) for key, stage in stages.items()}
    declared = {key: p_values.get(key) for key in primary}
    corrected = dict(zip(declared, holm([1.0 if p is None else p for p in declared.values()]), strict=True))
    tested = {key: p for key, p in p_values.items() if p is not None and key not in declared}
    corrected |= dict(zip(tested, q_values(list(tested.values())), strict=True))
    results = {}
    for key, stage in stages.items():
        difference, p = estimate(*stage), p_values[key]
        found = None if p is None else corrected[key]
        results[key] = Comparison(difference, p, found, verdict(difference, found, higher_is_better), key in declared)
    return results


def verdict(difference: Estimate, corrected: float | None, higher_is_better: bool = True) -> str:
    """Return ``better``, ``worse`` or ``within noise``, the last also for fewer than three pairs, whatever their p."""
    if difference.n < FEWEST:
        return f"within noise (n < {FEWEST})"
    if corrected is None or corrected >= ALPHA:
        return "within noise"
    return "better" if (difference.mean > 0) == higher_is_better else "worse"
