"""From rows to what a reader compares: arms with their mean, their difference from the baseline, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpssl_fed.study.arms import Arm, Asked, Versus
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import arm_of, label
from mpssl_fed.study.headline import higher_is_better
from mpssl_fed.study.results import Row
from mpssl_fed.study.schema import Study
from mpssl_fed.study.selection import Pair, baseline_of, without_mirrored
from mpssl_fed.study.sequential import wanted
from mpssl_fed.study.statistics import Comparison, Paired, compare, estimate

LABELS_KEY = "data.labels_per_class"


@dataclass(frozen=True)
class Analysis:
    """What a study's rows say: arms with their baselines, its primary comparisons, and the others that it names.

    exploratory: (arm, other, comparison) of all that are not primary, each once, with the labels of the arms.
    """

    arms: tuple[Arm, ...]
    primary: tuple[Asked, ...]
    asked: tuple[Asked, ...]
    exploratory: tuple[tuple[str, str, Comparison], ...]


def analyse(outcome: Outcome) -> Analysis:
    """Return the arms in the order of the study, each compared, seed by seed, with every baseline of the same other settings,
    and the comparisons that the study names. Primary ones are corrected among themselves, all others together."""
    study, plan, settings = outcome.plan.study, outcome.plan, outcome.plan.arms()
    rows: dict[str, list[Row]] = {name: [] for name in settings}
    for row in outcome.finished:
        rows[arm_of(row.settings)].append(row)
    partners = {name: [baseline_of(own, one, settings) for one in study.baseline] for name, own in settings.items()}
    primary, asked = plan.primary(), plan.asked()
    named = [(name, other) for name, others in partners.items() for other in others if other is not None and other != name]
    pairs = without_mirrored([*primary, *asked, *_later_first(named, partners)])
    values = {pair: paired(rows[pair[0]], rows[pair[1]], study, study.metric) for pair in pairs}
    found = compare(values, set(primary), higher_is_better=higher_is_better(study.metric))
    labels = {name: label(plan.telling(own)) for name, own in settings.items()}
    exploratory = [(labels[name], labels[other], one) for (name, other), one in found.items() if not one.primary]
    found |= {(other, name): comparison.mirrored() for (name, other), comparison in found.items()}
    arms = {
        name: Arm(
            settings=own,
            label=labels[name],
            rows=tuple(rows[name]),
            mean=estimate([row.value(study.metric) for row in rows[name]]) if rows[name] else None,
            versus=tuple(_versus(name, other, labels, found) for other in partners[name]),
        )
        for name, own in settings.items()
    }
    asks = {one.pair: one for one in wanted(plan, outcome.rows)}
    return Analysis(
        arms=tuple(arms.values()),
        primary=tuple(Asked(arms[a], arms[b], found.get((a, b)), asks.get((a, b))) for a, b in primary),
        asked=tuple(Asked(arms[a], arms[b], found.get((a, b))) for a, b in asked),
        exploratory=tuple(exploratory),
    )


def arms_of(outcome: Outcome) -> list[Arm]:
    """Return the arms of :func:`analyse`."""
    return list(analyse(outcome).arms)


def _later_first(pairs: Sequence[Pair], partners: Mapping[str, Sequence[str | None]]) -> list[Pair]:
    """Return the pairs with those of two baselines so turned that the later named one is compared with the earlier."""
    rank = {name: next((n for n, other in enumerate(others) if other == name), len(others)) for name, others in partners.items()}
    return [pair if rank[pair[0]] >= rank[pair[1]] else (pair[1], pair[0]) for pair in pairs]


def _versus(name: str, other: str | None, labels: Mapping[str, str], found: Mapping[Pair, Comparison]) -> Versus:
    return Versus(None if other is None else labels[other], other == name, None if other is None else found.get((name, other)))


def paired(rows: Sequence[Row], others: Sequence[Row], study: Study, metric: str) -> Paired:
    """Return the values of two arms by the seeds that both have finished, those of the first stage apart."""
    theirs = {row.seed: row.value(metric) for row in others}
    pairs = {row.seed: (row.value(metric), theirs[row.seed]) for row in rows if row.seed in theirs}
    first = set(study.first_seeds)
    return Paired(
        [pair for seed, pair in pairs.items() if seed in first], [pair for seed, pair in pairs.items() if seed not in first]
    )


def hue_key(outcome: Outcome) -> str:
    """Return the key that plots show as colour: the baseline's first, else ``variant``, else the first of the grid."""
    keys = [key for key in outcome.plan.keys if key != LABELS_KEY] or list(outcome.plan.keys)
    sought = [*(key for one in outcome.plan.study.baseline[:1] for key in one), "variant", "method.name", *keys]
    return next(key for key in sought if key in keys)
