"""From rows to what a reader compares: arms with their mean, their difference from the baseline, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import Settings, arm_of, label
from mpssl_fed.study.results import Row
from mpssl_fed.study.statistics import Comparison, Estimate, compare, estimate

LABELS_KEY = "data.labels_per_class"


@dataclass(frozen=True)
class Arm:
    """All seeds of one setting, with its label. ``mean`` and ``comparison`` are None where no seed, or no pair, has finished."""

    settings: Settings
    label: str
    rows: tuple[Row, ...]
    is_baseline: bool
    mean: Estimate | None
    comparison: Comparison | None


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


@dataclass(frozen=True)
class Asked:
    """A comparison of two arms that the study asks for; None where no pair of seeds has finished."""

    arm: Arm
    against: Arm
    comparison: Comparison | None


def arms_of(outcome: Outcome) -> list[Arm]:
    """Return the arms in the order of the study, each compared, seed by seed, with the baseline of the same other settings."""
    return analyse(outcome)[0]


def analyse(outcome: Outcome) -> tuple[list[Arm], list[Asked]]:
    """Return the arms, and the other comparisons that the study asks for; p is corrected over both together."""
    study, settings = outcome.plan.study, outcome.plan.arms()
    rows: dict[str, list[Row]] = {name: [] for name in settings}
    for row in outcome.finished:
        rows[arm_of(row.settings)].append(row)
    values = {name: {row.seed: row.value(study.metric) for row in of_arm} for name, of_arm in rows.items()}
    partner = {name: baseline_of(own, study.baseline, settings) for name, own in settings.items()}
    wanted = [(name, base) for name, base in partner.items() if base is not None and base != name]
    asked = outcome.plan.asked()
    pairs = {
        (name, other): [(values[name][seed], values[other][seed]) for seed in values[name] if seed in values[other]]
        for name, other in dict.fromkeys([*wanted, *asked])
    }
    comparisons = compare(pairs, higher_is_better=study.metric != "loss")
    arms = {
        name: Arm(
            settings=own,
            label=label(outcome.plan.telling(own)),
            rows=tuple(rows[name]),
            is_baseline=partner[name] == name,
            mean=estimate(list(values[name].values())) if values[name] else None,
            comparison=comparisons.get((name, partner[name] or "")),
        )
        for name, own in settings.items()
    }
    return list(arms.values()), [Asked(arms[name], arms[other], comparisons.get((name, other))) for name, other in asked]


def best_arm(arms: Sequence[Arm], metric: str) -> Arm | None:
    """Return the arm of the best mean among those with the most finished seeds, the first of equals; None before any has one."""
    most = max((arm.mean.n for arm in arms if arm.mean is not None), default=0)
    able = [arm for arm in arms if arm.mean is not None and arm.mean.n == most]
    sign = -1 if metric == "loss" else 1
    return max(able, key=lambda arm: sign * (arm.mean.mean if arm.mean else 0.0), default=None)


def baseline_of(own: Settings, baseline: Settings | None, arms: dict[str, Settings]) -> str | None:
    """Return the arm whose settings are ``own`` with the baseline's in their place; None when the study has no such arm."""
    if baseline is None:
        return None
    for name, other in arms.items():
        if all(_fits(other[key], value) for key, value in baseline.items()) and all(
            other[key] == own[key] for key in own if key not in baseline
        ):
            return name
    return None


def _fits(value: object, want: object) -> bool:
    if isinstance(value, dict) and isinstance(want, dict):
        return all(value.get(key) == option for key, option in want.items())
    return value == want


def hue_key(outcome: Outcome) -> str:
    """Return the key that plots show as colour: the baseline's first, else ``variant``, else the first of the grid."""
    keys = [key for key in outcome.plan.keys if key != LABELS_KEY] or list(outcome.plan.keys)
    wanted = [*(outcome.plan.study.baseline or {}), "variant", "method.name", *keys]
    return next(key for key in wanted if key in keys)


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
