"""What an arm costs: time per step, images, memory, time to the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mpssl_fed.study.arms import Arm
from mpssl_fed.study.folder import Outcome


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
