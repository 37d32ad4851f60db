"""The arms of a study on the plane of epsilon and accuracy: which no other dominates, and how far attacks on them came."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mpssl_fed.config import Config
from mpssl_fed.study.arms import Arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import arm_of, label
from mpssl_fed.study.report.attacks import attack_success
from mpssl_fed.study.statistics import Estimate


@dataclass(frozen=True)
class Point:
    """An arm on the plane. epsilon: 0 reads no private image, infinity has no privacy; success: AUROC of attacks, if audited."""

    label: str
    group: str
    epsilon: float
    accuracy: Estimate
    generator: bool
    complete: bool
    success: float | None = None
    on_front: bool = False


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (epsilon, accuracy) whether no other has epsilon as small and accuracy as high, one of them strictly."""
    return [
        not any(other_eps <= eps and other_acc >= acc and (other_eps < eps or other_acc > acc) for other_eps, other_acc in points)
        for eps, acc in points
    ]


def epsilon_of(config: Config) -> float:
    """Return the epsilon that a run claims: 0 where it asks no site, infinity without privacy."""
    if not config.private_rounds:
        return 0.0
    return math.inf if not config.privacy.on or config.privacy.epsilon is None else config.privacy.epsilon


def points_of(outcome: Outcome, arms: Sequence[Arm]) -> list[Point]:
    """Return the arms that have finished seeds, by data set in the study's order, those on their data set's front marked."""
    configs = configs_of(outcome)
    points = []
    for arm in arms:
        config = configs[arm_of(arm.settings)]
        if arm.mean is None:
            continue
        settings = {key: value for key, value in outcome.plan.telling(arm.settings).items() if key not in _SHOWN_ELSEWHERE}
        points.append(
            Point(
                label=label(settings),
                group=config.data.name,
                epsilon=epsilon_of(config),
                accuracy=arm.mean,
                generator=config.draws,
                complete=config.privacy.scope != "labelled-step",
                success=attack_success(outcome, arm.rows),
            )
        )
    marked = []
    for group in dict.fromkeys(point.group for point in points):
        own = [point for point in points if point.group == group]
        able = [point for point in own if point.complete]
        best = front([(point.epsilon, point.accuracy.mean) for point in able])
        flags = {id(point): flag for point, flag in zip(able, best, strict=True)}
        marked += [replace(point, on_front=flags.get(id(point), False)) for point in own]
    return marked


_SHOWN_ELSEWHERE = (
    "privacy.epsilon",
    "data.name",
    "data.labels_per_class",
    "data.label_fraction",
    "privacy.public_size",
    "optim.lr",
)


def epsilon_words(epsilon: float) -> str:
    """Return an epsilon as an axis shows it."""
    return "∞" if math.isinf(epsilon) else f"{epsilon:g}"


def configs_of(outcome: Outcome) -> Mapping[str, Config]:
    """Return the config of each arm, by its name; the seed is that of the last cell."""
    return {arm_of(cell.settings): cell.config for cell in outcome.plan.cells}
