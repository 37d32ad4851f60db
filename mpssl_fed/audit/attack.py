"""How well an attacker tells members from others: ROC area and true positives at few false ones, with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata

CONFIDENCE = 0.95
RESAMPLES = 1000
FALSE_POSITIVE_RATES = (0.01, 0.001)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class AttackSuccess:
    """auroc: 0.5 is a coin; true_positives: {false positive rate allowed: rate of members found}; unit: who is told from others, an
    image or a subject."""

    attack: str
    members: int
    others: int
    auroc: Estimate
    true_positives: dict[float, Estimate]
    unit: str = "image"


def success(attack: str, members: Floats, others: Floats, seed: int = 0, unit: str = "image") -> AttackSuccess:
    """Return how well scores, larger for a member, separate ``members`` [n] from ``others`` [m]; both non-empty.

    The area's interval is a bootstrap over both groups, a true positive rate's is Clopper-Pearson at the threshold chosen.
    """
    rng = np.random.default_rng(seed)
    areas = [auroc(rng.choice(members, len(members)), rng.choice(others, len(others))) for _ in range(RESAMPLES)]
    low, high = np.quantile(areas, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    area = Estimate(auroc(members, others), float(low), float(high))
    rates = {rate: true_positive_rate(members, others, rate) for rate in FALSE_POSITIVE_RATES}
    return AttackSuccess(attack, len(members), len(others), area, rates, unit)


def auroc(members: Floats, others: Floats) -> float:
    """Return P[member's score > other's], ties half."""
    ranks = rankdata(np.concatenate([members, others]))
    n, m = len(members), len(others)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def true_positive_rate(members: Floats, others: Floats, rate: float) -> Estimate:
    """Return the share of members above the lowest threshold that at most ``rate`` of the others exceed.

    With fewer than 1 / rate others that threshold is above them all.
    """
    allowed = int(rate * len(others))
    threshold = np.sort(others)[len(others) - 1 - allowed]
    found, n = int((members > threshold).sum()), len(members)
    return Estimate(found / n, *clopper_pearson(found, n))


def clopper_pearson(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of a rate from k successes in n (Clopper and Pearson 1934)."""
    found = binomtest(k, n).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)
