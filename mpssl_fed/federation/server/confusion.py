"""What tables of confusion counts say of the model, at each site and pooled, with intervals that know of the noise in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
DIGITS = 6

Share = tuple[float | None, float, float]
"""A share and the ends of its interval, all in 0..1; None where nothing was counted."""


def share(right: float, wrong: float, cells: tuple[int, int] = (1, 1), std: float = 0.0) -> Share:
    """Return right / (right + wrong) and its interval of :data:`CONFIDENCE`.

    right, wrong: sums of ``cells`` counts, each of which holds independent N(0, std^2). The interval is all p with

        (right - p n)^2 <= z^2 [ n p (1 - p) + std^2 ((1 - p)^2 cells_right + p^2 cells_wrong) ],   n = right + wrong

    since right - p n = (1 - p) right - p wrong has mean 0 at the true p, and the bracket is its variance: what drawing n units
    adds, and what the noise does. Without noise this is Wilson's interval (JASA 22, 1927); inverting the test of a linear
    combination is Fieller's way to the interval of a ratio (JRSS B 16, 1954). A unit that counts in fractions (a subject) has no
    larger variance (Bhatia and Davis, Amer. Math. Monthly 107, 2000). A sum below 0 is set to 0, which no true count is below.
    """
    right, wrong = max(0.0, right), max(0.0, wrong)
    n, noise = right + wrong, (Z * std) ** 2
    square = n * n + Z * Z * n - noise * sum(cells)
    if n <= 0 or square <= 0:  # nothing but noise: every p agrees with it
        return (right / n if n > 0 else None, 0.0, 1.0)
    middle, end = 2 * right * n + Z * Z * n - 2 * noise * cells[0], right * right - noise * cells[0]
    half = math.sqrt(max(0.0, middle * middle - 4 * square * end))
    value = right / n
    return value, min(value, max(0.0, (middle - half) / (2 * square))), max(value, min(1.0, (middle + half) / (2 * square)))


def measures(counts: NDArray[np.float64], std: float) -> dict[str, Any]:
    """Return what a table [K, K] of true class x named class says, as JSON types.

    ``{"counts", "noise_std": std of each count, "accuracy": Share, "sensitivity": [Share of each class], "specificity": [...]}``.
    """
    classes, total = len(counts), float(counts.sum())
    named, true, hit = counts.sum(0), counts.sum(1), np.diagonal(counts)
    others = classes - 1
    found: dict[str, list[Share]] = {"sensitivity": [], "specificity": []}
    for k in range(classes):
        found["sensitivity"].append(share(float(hit[k]), float(true[k] - hit[k]), (1, others), std))
        false = float(named[k] - hit[k])
        negative = total - float(true[k])
        found["specificity"].append(share(negative - false, false, (others**2, others), std))
    right = float(hit.sum())
    return {
        "counts": [[round(value, DIGITS) for value in row] for row in counts.tolist()],
        "noise_std": std,
        "accuracy": _rounded(share(right, total - right, (classes, classes * others), std)),
        **{name: [_rounded(one) for one in shares] for name, shares in found.items()},
    }


def pooled(tables: Sequence[tuple[NDArray[np.float64], float]]) -> tuple[NDArray[np.float64], float]:
    """Return the sum of (counts, std) tables, at least one, and the std of its noise, which is independent from site to site."""
    return np.sum([counts for counts, _ in tables], axis=0), math.sqrt(math.fsum(std * std for _, std in tables))


def told(tables: Mapping[int, tuple[NDArray[np.float64], float]], classes: Sequence[str], unit: str) -> dict[str, Any]:
    """Return the tables of an evaluation as a run keeps them: pooled, and by site. unit: what is counted."""
    sites = {str(site): measures(*table) for site, table in tables.items()}
    return {
        "unit": unit,
        "confidence": CONFIDENCE,
        "classes": list(classes),
        "pooled": measures(*pooled(list(tables.values()))) if tables else None,
        "sites": sites,
    }


def _rounded(one: Share) -> list[float | None]:
    return [None if value is None else round(value, DIGITS) for value in one]
