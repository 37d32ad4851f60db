"""Wilson's interval of a proportion."""

from __future__ import annotations

CONFIDENCE = 0.95


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion ``right / n``, within [0, 1] (Wilson, JASA 22, 1927); n at least 1."""
    from scipy.stats import binomtest  # here: it takes a second to import

    found = binomtest(right, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)
