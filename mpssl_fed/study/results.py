"""Result rows: one a cell, as ``result.json`` in the cell's folder and as a line of ``results.csv``."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.files import write_json
from mpssl_fed.runs.reader import read_json
from mpssl_fed.study.grid import Settings

FINISHED = "finished"
FAILED = "failed"


@dataclass(frozen=True)
class Row:
    """What a study keeps of a cell. ``config_sha256`` is its key (see ``cell_key``); what was measured may be unknown (None).

    ``curve``: accuracy by round with the seconds up to it, ``0:0.1020@0.3 1:0.4410@8.1``; ``diagnosis``: what was measured of its
    synthetic images, ``gap=0.52 coverage=0.31``; ``membership``: area under the curve of an attack on the model, in
    studies of privacy. So a report needs the table alone, not the run directories.
    """

    config_sha256: str
    method_version: int
    seed: int
    status: str
    settings: Settings = field(default_factory=dict)
    accuracy: float | None = None
    best: float | None = None
    loss: float | None = None
    seconds: float | None = None
    seconds_train: float | None = None
    seconds_generate: float | None = None
    cpu_seconds: float | None = None
    steps: int | None = None
    generator_images: int | None = None
    peak_memory_mb: float | None = None
    curve: str | None = None
    diagnosis: str | None = None
    membership: float | None = None
    balanced_accuracy: float | None = None
    auroc: float | None = None
    macro_f1: float | None = None
    average_precision: float | None = None
    brier: float | None = None
    ece: float | None = None
    error: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the cell has a result."""
        return self.status == FINISHED

    @property
    def rounds(self) -> list[tuple[int, float, float]]:
        """(round, accuracy, seconds up to its end) of the rounds that were evaluated; empty where no curve was kept."""
        points = (word.replace("@", ":").split(":") for word in (self.curve or "").split())
        return [(int(number), float(accuracy), float(seconds)) for number, accuracy, seconds in points]

    @property
    def diagnosed(self) -> dict[str, float]:
        """Measure -> value of the diagnosis; empty where there was none."""
        pairs = (word.split("=") for word in (self.diagnosis or "").split())
        return {name: float(value) for name, value in pairs}

    def seconds_to(self, accuracy: float) -> float | None:
        """Return the seconds up to the first round with this accuracy; None if it was never reached."""
        return next((seconds for _, reached, seconds in self.rounds if reached >= accuracy), None)

    def has(self, metric: str) -> bool:
        """Whether the cell has a result with a value of this metric: the loss of a run that diverged has none."""
        return self.finished and getattr(self, metric) is not None

    def value(self, metric: str) -> float:
        """Return the value of a study's metric, for a row that has one."""
        return float(getattr(self, metric))


KEY = ("config_sha256", "method_version", "seed", "status", "settings")
WORDS = ("error", "curve", "diagnosis")
MEASURED = [item.name for item in dataclasses.fields(Row) if item.name not in KEY]


def write_result(path: Path, row: Row) -> None:
    """Write a row as JSON, whole or not at all."""
    write_json(path, dataclasses.asdict(row))


def read_result(path: Path) -> Row | None:
    """Return the row in a result file; None when there is none, or one that is damaged: its cell has not finished then."""
    if not path.is_file():
        return None
    try:
        row = Row(**read_json(path))
        _ = row.rounds, row.diagnosed
    except (UserError, TypeError, ValueError, AttributeError):
        return None
    known = isinstance(row.settings, dict) and isinstance(row.config_sha256, str)
    numbers = (getattr(row, name) for name in MEASURED if name not in WORDS)
    return row if known and all(value is None or _is_finite(value) for value in numbers) else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
