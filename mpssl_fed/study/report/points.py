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

WITH, WITHOUT = "with the public generator", "without it"
OWN, SHARED, NONE = "noise of each site's own", "noise shared in a sum", "no noise"


@dataclass(frozen=True)
class Point:
    """An arm on the plane. epsilon: 0 reads no private image, infinity has no privacy; success: AUROC of attacks, if audited;
    trust: whose noise covers a site, where the study compares that."""

    label: str
    group: str
    epsilon: float
    accuracy: Estimate
    generator: bool
    complete: bool
    success: float | None = None
    on_front: bool = False
    trust: str | None = None

    @property
    def series(self) -> str:
        """What it is drawn as."""
        return self.trust or (WITH if self.generator else WITHOUT)


def series_of(points: Sequence[Point]) -> list[str]:
    """Return the series that ``points`` are drawn as, in their order."""
    found = {point.series for point in points}
    return [WITHOUT, WITH] if found <= {WITH, WITHOUT} else [name for name in (OWN, SHARED, NONE) if name in found]


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
    """Return the arms that have finished seeds, by data set in the study's order, those on their data set's front marked.

    Where trust is compared, networks and numbers of sites stand apart as data sets do.
    """
    configs = configs_of(outcome)
    by_trust = any(config.privacy.shared for config in configs.values())
    points = []
    for arm in arms:
        config = configs[arm_of(arm.settings)]
        if arm.mean is None:
            continue
        settings = {key: value for key, value in outcome.plan.telling(arm.settings).items() if key not in _SHOWN_ELSEWHERE}
        points.append(
            Point(
                label=label(settings),
                group=_network(config) if by_trust else config.data.name,
                epsilon=epsilon_of(config),
                accuracy=arm.mean,
                generator=config.draws,
                complete=config.privacy.scope != "labelled-step",
                success=attack_success(outcome, arm.rows),
                trust=_trust(config) if by_trust else None,
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


def _network(config: Config) -> str:
    part = "head on " if config.model.trainable == "head" else ""
    return f"{config.data.name}, {part}{config.model.name}, {config.federation.sites} sites"


def _trust(config: Config) -> str:
    if not (config.privacy.on and config.private_rounds):
        return NONE
    return SHARED if config.privacy.shared else OWN


def epsilon_words(epsilon: float) -> str:
    """Return an epsilon as an axis shows it."""
    return "∞" if math.isinf(epsilon) else f"{epsilon:g}"


def configs_of(outcome: Outcome) -> Mapping[str, Config]:
    """Return the config of each arm, by its name; the seed is that of the last cell."""
    return {arm_of(cell.settings): cell.config for cell in outcome.plan.cells}
