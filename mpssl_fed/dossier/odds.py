"""What a privacy loss means in odds: how well anyone can tell whether one unit was among the training data.

All follows from the trade-off function of hypothesis tests: (epsilon, delta) bounds, for every false-alarm rate, the rate at which
the presence of a unit is found (Wasserman and Zhou, arXiv 0811.2501; Kairouz, Oh and Viswanath, arXiv 1311.0776, theorem 2.1;
Dong, Roth and Su, arXiv 1905.02383). A mechanism that holds many pairs (epsilon, delta) is bounded by each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mpssl_fed.privacy.accounting import epsilon
from mpssl_fed.privacy.shared.history import History

GRID = (1e-10, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.2, 0.35, 0.5, 0.75)
FALSE_ALARMS = 0.01
"""The rate at which others are accused wrongly, for :func:`found`."""

REFINED = 8


def success(epsilon: float, delta: float) -> float:
    """Return the largest chance, 0.5..1, of a right guess whether a unit was there, if before it is as likely as not.

    (1 + TV) / 2 with the total variation distance TV = delta + (1 - delta) tanh(epsilon / 2).
    """
    return (1 + delta + (1 - delta) * math.tanh(epsilon / 2)) / 2


def found(epsilon: float, delta: float, alarms: float = FALSE_ALARMS) -> float:
    """Return the largest rate, 0..1, at which units are found by a test that accuses ``alarms`` of those that were not there."""
    by_ratio = delta + math.exp(min(epsilon, 700.0)) * alarms
    return min(1.0, by_ratio, 1 - math.exp(-epsilon) * max(0.0, 1 - delta - alarms))


@dataclass(frozen=True)
class Curve:
    """Pairs (delta, epsilon), by delta, each of which holds."""

    points: tuple[tuple[float, float], ...]

    @property
    def success(self) -> float:
        """:func:`success` by the tightest pair."""
        return min(success(epsilon, delta) for delta, epsilon in self.points)

    @property
    def found(self) -> float:
        """:func:`found` by the tightest pair."""
        return min(found(epsilon, delta) for delta, epsilon in self.points)


def curve(history: History, deltas: Iterable[float] = ()) -> Curve:
    """Return epsilon of ``history`` at a grid of delta, at ``deltas``, and where :func:`success` is the smallest.

    Every point is an upper bound of :func:`mpssl_fed.privacy.accounting.epsilon`, so is what follows from it; a delta of which none
    can be told, as of shared noise, has no point. The history must have been fixed before its first answer.
    """
    from scipy.optimize import minimize_scalar

    points = {delta: epsilon(history, delta) for delta in {*GRID, *deltas}}
    grid = sorted(points)
    best = min(range(len(grid)), key=lambda index: success(points[grid[index]], grid[index]))

    def at(log_delta: float) -> float:
        delta = math.exp(log_delta)
        points[delta] = epsilon(history, delta)
        return success(points[delta], delta)

    between = (math.log(grid[max(best - 1, 0)]), math.log(grid[min(best + 1, len(grid) - 1)]))
    minimize_scalar(at, bounds=between, method="bounded", options={"maxiter": REFINED})
    return Curve(tuple((delta, value) for delta, value in sorted(points.items()) if math.isfinite(value)))


def percent(chance: float) -> str:
    """Return a chance in percent, rounded up: a printed one never says less."""
    return f"{min(100.0, math.ceil(1000 * chance - 1e-9) / 10):.1f} %"
