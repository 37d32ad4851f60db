"""What a choice of the generator's classes could win: the arm that knows the right ones against the arm that draws at random.

Where ``oracle`` is not better than ``random`` by two standard errors, no optimiser of the selection can be shown to win: its gate
is closed. Arms belong together whose configs differ in nothing but the source and what only a source reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.report.table import NOTHING, make_table
from mpssl_fed.study.analysis import paired
from mpssl_fed.study.arms import Arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import arm_of
from mpssl_fed.study.headline import higher_is_better, unit_of
from mpssl_fed.study.statistics import Estimate, estimate

ERRORS = 2.0
"""Standard errors that open the gate."""
SOURCES = ("oracle", "anti-oracle", "closed-form", "meta-optimised")
READ_BY_SOURCES = (
    "name", "source", "relevant", "latent", "gap", "lmo_every", "lmo_batch", "micro_batch", "look_ahead", "random_share",
)  # fmt: skip
NOTE = (
    "Gain over the arm that draws generator classes at random, all else being equal, paired by seed, with its standard error. "
    "`oracle` draws from the classes that show the task's, `anti-oracle` from all others; what the first of them gains is the most "
    "that a choice of classes can. The gate is open where that is more than two standard errors."
)


@dataclass(frozen=True)
class Gain:
    """An arm against the random one of its group. gain: of the metric, better is positive; error: None below two pairs of seeds."""

    arm: Arm
    source: str
    against: Arm
    gain: Estimate
    error: float | None

    @property
    def opens(self) -> bool:
        """Whether the gain is beyond two standard errors."""
        return self.error is not None and self.gain.mean > ERRORS * self.error


def gains(outcome: Outcome, arms: Sequence[Arm]) -> list[list[Gain]]:
    """Return, for each random arm that has an oracle beside it, the gains over it: the oracle's first."""
    configs = {arm_of(cell.settings): cell.config for cell in reversed(outcome.plan.cells)}
    groups: dict[str, dict[str, list[Arm]]] = {}
    for arm in arms:
        config = configs[arm_of(arm.settings)]
        groups.setdefault(_elsewhere(config), {}).setdefault(str(config.method.source), []).append(arm)
    found = []
    for group in groups.values():
        if not group.get("oracle"):
            continue
        for against in group.get("random", []):
            own = [_gain(arm, source, against, outcome) for source in SOURCES for arm in group.get(source, [])]
            known = [gain for gain in own if gain is not None]
            if known and known[0].source == "oracle":
                found.append(known)
    return found


def _gain(arm: Arm, source: str, against: Arm, outcome: Outcome) -> Gain | None:
    study = outcome.plan.study
    first, added = paired(arm.rows, against.rows, study, study.metric).differences()
    values = [value if higher_is_better(study.metric) else -value for value in (*first, *added)]
    if not values:
        return None
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Gain(arm, source, against, estimate(values), error)


def _elsewhere(config: Config) -> str:
    fields: dict[str, Any] = config.dump()
    for key in READ_BY_SOURCES:
        fields["method"].pop(key, None)
    del fields["seed"]
    return json.dumps(fields, sort_keys=True)


def gate_section(outcome: Outcome, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return the section; none for a study without an oracle beside a random arm."""
    groups = gains(outcome, arms)
    if not groups:
        return []
    scale, digits = unit_of(outcome.plan.study.metric)
    lines = []
    for group in groups:
        oracle = group[0]
        for one in group:
            error = NOTHING if one.error is None else f"{scale * one.error:.{digits}f}"
            gate = ("open" if one.opens else "closed") if one.source == "oracle" else ""
            share = f"{100 * one.gain.mean / oracle.gain.mean:.0f} %" if oracle.opens else NOTHING
            lines.append([
                one.arm.label, one.against.label, f"{scale * one.gain.mean:+.{digits}f}", error, str(one.gain.n), share, gate,
            ])  # fmt: skip
    columns = ["arm", "against", "gain", "standard error", "n", "of the oracle's", "gate"]
    table = make_table(columns, lines, ["arm", "against", "gate"])
    return [{"title": "What selection could win", "verdict": _verdict(groups, scale, digits), "note": NOTE, "table": table}]


def _verdict(groups: Sequence[Sequence[Gain]], scale: int, digits: int) -> str:
    opened = [group[0] for group in groups if group[0].opens]
    of = f"{len(groups)} settings" if len(groups) > 1 else "one setting"
    if not opened:
        return (
            f"In none of {of} does knowing the right classes win beyond two standard errors: no optimiser can be seen to, either."
        )
    most = max(opened, key=lambda one: one.gain.mean)
    error = "" if most.error is None else f" (standard error {scale * most.error:.{digits}f})"
    unit = "" if scale == 1 else " points"
    return (
        f"In {len(opened)} of {of} a choice of classes can win: at most {scale * most.gain.mean:.{digits}f}{unit}{error}, "
        f"{most.arm.label} against {most.against.label}."
    )
