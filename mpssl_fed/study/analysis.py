"""From rows to what a reader compares: arms with their mean, their difference from the baseline, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import Settings, arm_of, label
from mpssl_fed.study.results import Row
from mpssl_fed.study.schema import Study
from mpssl_fed.study.selection import Pair, baseline_of, without_mirrored
from mpssl_fed.study.sequential import Wanted, wanted
from mpssl_fed.study.statistics import Comparison, Estimate, Paired, compare, estimate

LABELS_KEY = "data.labels_per_class"


@dataclass(frozen=True)
class Arm:
    """All seeds of one setting, with its label. ``mean`` is None where no seed has finished.

    ``versus``: what it is compared with, by baseline in the study's order.
    """

    settings: Settings
    label: str
    rows: tuple[Row, ...]
    mean: Estimate | None
    versus: tuple[Versus, ...] = ()

    @property
    def is_baseline(self) -> bool:
        """Whether it is one of the arms that the others are compared with."""
        return any(one.itself for one in self.versus)

    @property
    def comparison(self) -> Comparison | None:
        """The comparison with the first baseline; None where no pair has finished, or it is that baseline."""
        return self.versus[0].comparison if self.versus else None


@dataclass(frozen=True)
class Versus:
    """An arm against one baseline of the same other settings; against: its label, None where the study has no such arm."""

    against: str | None
    itself: bool
    comparison: Comparison | None


@dataclass(frozen=True)
class Asked:
    """A comparison of two arms that the study names; None where no pair of seeds has finished."""

    arm: Arm
    against: Arm
    comparison: Comparison | None
    wanted: Wanted | None = None


@dataclass(frozen=True)
class Analysis:
    """What a study's rows say: arms with their baselines, its primary comparisons, and the others that it names.

    exploratory: (arm, other, comparison) of all that are not primary, each once, with the labels of the arms.
    """

    arms: tuple[Arm, ...]
    primary: tuple[Asked, ...]
    asked: tuple[Asked, ...]
    exploratory: tuple[tuple[str, str, Comparison], ...]


@dataclass(frozen=True)
class Cost:
    """What an arm costs, as means over its cells; None where it was not measured."""

    label: str
    step_ms: float | None
    generate_ms: float | None
    cpu_ms: float | None
    images_per_step: float | None
    peak_memory_mb: float | None
    seconds: float | None
    seconds_to_target: float | None
    reached: int
    n: int


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
    found = compare(values, set(primary), higher_is_better=study.metric != "loss")
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


def best_arm(arms: Sequence[Arm], study: Study) -> Arm | None:
    """Return the arm of the best mean, the first of equals; None before any has a seed.

    Those take part that have finished the seeds of every arm, or, while none has, the most of them.
    """
    most = min(max((arm.mean.n for arm in arms if arm.mean is not None), default=0), len(study.common_seeds))
    able = [arm for arm in arms if arm.mean is not None and arm.mean.n >= most]
    sign = -1 if study.metric == "loss" else 1
    return max(able, key=lambda arm: sign * (arm.mean.mean if arm.mean else 0.0), default=None)


def hue_key(outcome: Outcome) -> str:
    """Return the key that plots show as colour: the baseline's first, else ``variant``, else the first of the grid."""
    keys = [key for key in outcome.plan.keys if key != LABELS_KEY] or list(outcome.plan.keys)
    sought = [*(key for one in outcome.plan.study.baseline[:1] for key in one), "variant", "method.name", *keys]
    return next(key for key in sought if key in keys)


def costs_of(outcome: Outcome, arms: Sequence[Arm]) -> list[Cost]:
    """Return the costs of each arm: milliseconds of wall clock and of CPU per local step, images, memory, time to the target."""
    return [_cost(outcome, arm) for arm in arms if arm.rows]


def _cost(outcome: Outcome, arm: Arm) -> Cost:
    target = outcome.plan.study.target_accuracy
    times = [row.seconds_to(target) for row in arm.rows if row.curve] if target is not None else []
    reached = [seconds for seconds in times if seconds is not None]
    return Cost(
        label=arm.label,
        step_ms=_mean(
            [
                1000 * (row.seconds_train + (row.seconds_generate or 0)) / row.steps
                for row in arm.rows
                if row.seconds_train and row.steps
            ]
        ),
        generate_ms=_per_step(arm, "seconds_generate", 1000),
        cpu_ms=_per_step(arm, "cpu_seconds", 1000),
        images_per_step=_per_step(arm, "generator_images"),
        peak_memory_mb=_mean([row.peak_memory_mb for row in arm.rows if row.peak_memory_mb is not None]),
        seconds=_mean([row.seconds for row in arm.rows if row.seconds is not None]),
        seconds_to_target=_mean(reached),
        reached=len(reached),
        n=len(times),
    )


def _per_step(arm: Arm, name: str, scale: float = 1) -> float | None:
    return _mean([scale * getattr(row, name) / row.steps for row in arm.rows if getattr(row, name) is not None and row.steps])


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
