"""The arms of a study, and what each is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpssl_fed.study.grid import Settings
from mpssl_fed.study.headline import higher_is_better
from mpssl_fed.study.results import Row
from mpssl_fed.study.schema import Study
from mpssl_fed.study.sequential import Wanted
from mpssl_fed.study.statistics import Comparison, Estimate


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


def best_arm(arms: Sequence[Arm], study: Study) -> Arm | None:
    """Return the arm of the best mean, the first of equals; None before any has a seed.

    Those take part that have finished the seeds of every arm, or, while none has, the most of them.
    """
    most = min(max((arm.mean.n for arm in arms if arm.mean is not None), default=0), len(study.common_seeds))
    able = [arm for arm in arms if arm.mean is not None and arm.mean.n >= most]
    sign = 1 if higher_is_better(study.metric) else -1
    return max(able, key=lambda arm: sign * (arm.mean.mean if arm.mean else 0.0), default=None)
