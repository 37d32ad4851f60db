"""How many seeds an arm gets: all the first ones, then as many as the widest of its primary comparisons takes.

Stein's procedure (Annals of Mathematical Statistics 16, 1945): the first stage, ``least`` seeds of both arms, gives the variance of
their difference; n seeds then make an interval of half width t(least - 1) s / sqrt(n), and the smallest n that makes it narrow
enough, at most ``most``, is run. What is decided depends on the spread of the first stage and on nothing else: neither on the sign
or size of a difference, nor on p, nor on the order in which cells end. With normal differences this number says nothing of their
mean, so the interval that ``statistics`` draws from the same variance keeps its 95 %; where an arm got more seeds for the sake of
another comparison, they come of a spread too, and count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mpssl_fed.study.grid import Cell, Plan, arm_of
from mpssl_fed.study.results import Row
from mpssl_fed.study.schema import SeedRule
from mpssl_fed.study.selection import Pair
from mpssl_fed.study.statistics import half_width

State = Literal["first stage not finished", "narrow enough", "limit of seeds"]


@dataclass(frozen=True)
class Wanted:
    """What a primary comparison asks for: n seeds of both arms, and why no more."""

    pair: Pair
    n: int
    why: State


def seeds_for(differences: list[float], rule: SeedRule) -> int:
    """Return the seeds that a difference takes, between ``least`` and ``most``, by its ``least`` first values."""
    wide = half_width(differences, 1)
    return next((n for n in range(rule.least, rule.most) if wide / n**0.5 <= rule.halfwidth), rule.most)


def wanted(plan: Plan, rows: Mapping[str, Row]) -> list[Wanted]:
    """Return what each primary comparison asks for by the rows (cell key -> row) so far; [] in a study without a rule.

    A comparison whose first stage has not finished in both arms, a failed cell included, asks for no more than that.
    """
    rule = plan.study.rule
    if rule is None:
        return []
    first: dict[str, dict[int, float]] = {}
    for cell in plan.first:
        row = rows.get(cell.sha256)
        if row is not None and row.has(plan.study.metric):
            first.setdefault(arm_of(cell.settings), {})[cell.seed] = row.value(plan.study.metric)
    found = []
    for one, other in plan.primary():
        a, b = first.get(one, {}), first.get(other, {})
        if min(len(a), len(b)) < rule.least:
            found.append(Wanted((one, other), rule.least, "first stage not finished"))
            continue
        differences = [a[seed] - b[seed] for seed in plan.study.first_seeds]
        n = seeds_for(differences, rule)
        narrow = half_width(differences, n) <= rule.halfwidth
        found.append(Wanted((one, other), n, "narrow enough" if narrow else "limit of seeds"))
    return found


def due(plan: Plan, rows: Mapping[str, Row]) -> list[Cell]:
    """Return the cells that the study wants by now, finished or not: all of the first seeds, and those added by the rule."""
    seeds: dict[str, int] = {}
    for comparison in wanted(plan, rows):
        for arm in comparison.pair:
            seeds[arm] = max(seeds.get(arm, 0), comparison.n)
    first = set(plan.study.first_seeds)
    return [cell for cell in plan.cells if cell.seed in first or cell.seed < seeds.get(arm_of(cell.settings), 0)]
