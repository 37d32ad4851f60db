"""Lower bounds on epsilon from one run: m canaries were each in with probability 1/2, and an attacker guessed which."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import binom

CONFIDENCE = 0.95
SHARES = (1.0, 0.5, 0.2, 0.05)
"""Shares of the canaries that are guessed, the most certain ones; fixed beforehand, each takes its part of the error."""

MOST_EPSILON = 30.0
MOST_MU = 20.0

Scores = NDArray[np.float64]
Included = NDArray[np.bool_]


def correct_guesses(scores: Scores, included: Included, guesses: int) -> int:
    """Return how many of ``guesses`` are right: half say "in" for the largest scores [m], half "out" for the smallest."""
    order = np.argsort(scores, kind="stable")
    out, inside = guesses // 2, guesses - guesses // 2
    return int(np.sum(~included[order[:out]]) + np.sum(included[order[len(order) - inside :]]))


def epsilon_one_run(scores: Scores, included: Included, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the largest epsilon for which (epsilon, delta)-DP is contradicted; 0 where nothing is."""
    return _best(
        scores, included, MOST_EPSILON, confidence, lambda epsilon, m, r, v, alpha: p_value(epsilon, m, r, v, delta) < alpha
    )


def mu_one_run(scores: Scores, included: Included, confidence: float = CONFIDENCE) -> float:
    """Return the largest mu for which mu-Gaussian-DP is contradicted; 0 where nothing is.

    Gaussian releases of whole data sets (q = 1), composed, are exactly of that kind.
    """
    return _best(scores, included, MOST_MU, confidence, contradicts_gaussian)


def p_value(epsilon: float, m: int, guesses: int, right: int, delta: float) -> float:
    """Return a bound on the chance of ``right`` right ones among r ``guesses`` about m canaries under (epsilon, delta)-DP
    (Steinke, Nasr, Jagielski, arXiv 2305.08846, theorem 5.2):

        P[B >= v] + 2 m delta max_i P[v - i <= B < v] / i,   B ~ Binomial(r, e^epsilon / (1 + e^epsilon)).
    """
    if not right:
        return 1.0
    below = binom.cdf(np.arange(right), guesses, 1 / (1 + math.exp(-epsilon)))  # P[B <= k], k = 0 .. v - 1
    reach = np.concatenate([below[-1] - below[-2::-1], [below[-1]]]) / np.arange(1, right + 1)  # i = 1 .. v
    return min(1.0, float(1 - below[-1] + 2 * m * delta * reach.max()))


def contradicts_gaussian(mu: float, m: int, guesses: int, right: int, alpha: float) -> bool:
    """Return whether so many right guesses have a chance below ``alpha`` under mu-Gaussian-DP (Mahloujifar, Melis,
    Chaudhuri, arXiv 2410.22235, algorithm 3)."""
    r, h = alpha * right / m, alpha * (guesses - right) / m
    for i in range(right - 1, -1, -1):
        before = h
        h = max(h, float(ndtr(ndtri(min(r, 1.0)) - mu)))
        if h == before:
            break  # neither changes any more
        r += i / (guesses - i) * (h - before)
    return r + h > guesses / m


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the epsilon of mu-Gaussian-DP at delta (Dong, Roth, Su, arXiv 1905.02383, corollary 2.13); 0 for mu 0."""
    if mu <= 0:
        return 0.0

    def excess(epsilon: float) -> float:
        return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))) - delta

    return float(brentq(excess, 0.0, mu * mu / 2 + mu * 12 + 1)) if excess(0.0) > 0 else 0.0


def _best(
    scores: Scores,
    included: Included,
    most: float,
    confidence: float,
    contradicted: Callable[[float, int, int, int, float], bool],
) -> float:
    """Return the largest parameter up to ``most`` that some share of the guesses contradicts, to 0.001."""
    alpha, found = (1 - confidence) / len(SHARES), 0.0
    for share in SHARES:
        guesses = max(2, int(share * len(scores)))
        right = correct_guesses(scores, included, guesses)
        low, high = found, most
        if not contradicted(max(low, 1e-9), len(scores), guesses, right, alpha):
            continue
        while high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (middle, high) if contradicted(middle, len(scores), guesses, right, alpha) else (low, middle)
        found = low
    return found
