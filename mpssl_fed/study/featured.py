"""The run that a study shows: the best arm's, unless the study file names another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpssl_fed.study.arms import Arm, best_arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import Cell

OF_THE_BEST = "The run of the arm with the best mean that lies nearest to this mean: neither its luckiest nor its worst."


@dataclass(frozen=True)
class Featured:
    """A cell whose run directory is here, and why it is shown."""

    cell: Cell
    note: str


def featured(outcome: Outcome, arms: Sequence[Arm]) -> Featured | None:
    """Return the run to show; None where it has not finished or its directory is elsewhere."""
    here = {row.config_sha256 for row in outcome.finished if (outcome.folder(row) / "metrics.jsonl").is_file()}
    pinned, best = outcome.plan.shown(), best_arm(arms, outcome.plan.study)
    if pinned is not None:
        note = "The study file names this run." + (f" The best mean is that of {best.label}." if best is not None else "")
        return Featured(pinned, note) if pinned.sha256 in here else None
    if best is None or best.mean is None:
        return None
    mean, metric = best.mean.mean, outcome.plan.study.metric
    able = [row for row in best.rows if row.config_sha256 in here]
    row = min(able, key=lambda row: abs(row.value(metric) - mean), default=None)
    cells = {cell.sha256: cell for cell in outcome.plan.cells}
    return None if row is None else Featured(cells[row.config_sha256], OF_THE_BEST)
