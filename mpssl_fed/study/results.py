"""Result rows: one a cell, as ``result.json`` in the cell's folder and as a line of ``results.csv``."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.files import plain_file, write_atomic, write_json
from mpssl_fed.report.signs import reached
from mpssl_fed.runs.reader import RunReader, read_diagnosis, read_json
from mpssl_fed.study.grid import Cell, Settings
from mpssl_fed.study.keys import short_names, show_value

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


def row_of_run(cell: Cell, folder: Path, method_version: int, **measured: Any) -> Row:
    """Return the row of a finished run directory. Steps and generated images are summed over sites; seconds over all rounds."""
    run = RunReader(folder)
    accuracy, loss = run.accuracy, run.loss
    if not accuracy:
        raise UserError(f"{folder}: no round was evaluated")
    ends = loss and loss[-1][0] == accuracy[-1][0]  # else the last round's is not finite
    answered = sum(one.answered for one in run.rounds)
    generated = [one.generated for one in run.rounds if one.generated is not None]
    return Row(
        config_sha256=cell.sha256,
        method_version=method_version,
        seed=cell.seed,
        status=FINISHED,
        settings=cell.settings,
        accuracy=accuracy[-1][1],
        best=max(value for _, value in accuracy),
        loss=loss[-1][1] if ends else None,
        seconds=round(run.seconds, 3),
        seconds_train=round(run.timing("train"), 3),
        seconds_generate=round(run.timing("generate"), 3),
        steps=answered * cell.config.federation.local_steps,
        generator_images=sum(generated) if generated else None,
        curve=curve_of(run),
        diagnosis=diagnosis_of(folder),
        **measured,
    )


def curve_of(run: RunReader) -> str:
    """Return the accuracy of each evaluated round of a run, and the seconds up to its end, as a row keeps them."""
    words, seconds = [], 0.0
    for one in run.rounds:
        seconds += one.seconds
        if one.accuracy is not None:
            words.append(f"{one.number}:{one.accuracy:.4f}@{seconds:.1f}")
    return " ".join(words)


def diagnosis_of(folder: Path) -> str | None:
    """Return the diagnosis of a run's synthetic images as a row keeps it; None where there is none."""
    found = read_diagnosis(folder)
    if found is None:
        return None
    share = reached(found)
    measured = found["synthetic"] | ({} if share is None else {"reach": share})
    return " ".join(f"{name}={value:.4f}" for name, value in measured.items())


def completed(row: Row, folder: Path) -> Row:
    """Return ``row`` with what its run directory tells and rows of an older schema lack."""
    if row.curve is None and (folder / "metrics.jsonl").is_file():
        row = dataclasses.replace(row, curve=curve_of(RunReader(folder)))
    return row if row.diagnosis is not None else dataclasses.replace(row, diagnosis=diagnosis_of(folder))


def failed_row(cell: Cell, method_version: int, error: str) -> Row:
    """Return the row of a cell that did not end."""
    return Row(cell.sha256, method_version, cell.seed, FAILED, cell.settings, error=error)


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


def write_csv(path: Path, rows: Iterable[Row], keys: Sequence[str]) -> None:
    """Write one line per row; the settings stand in columns named like their grid keys."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["config_sha256", "method_version", *keys, "seed", "status", *MEASURED])
    for row in rows:
        settings = [show_value(row.settings.get(key)) for key in keys]
        measured = ["" if getattr(row, name) is None else getattr(row, name) for name in MEASURED]
        writer.writerow([row.config_sha256, row.method_version, *settings, row.seed, row.status, *measured])
    write_atomic(path, text.getvalue())


def read_csv(path: Path, cells: Sequence[Cell], method_version: int, by_settings: bool = False) -> dict[str, Row]:
    """Return key -> finished row for those of ``cells`` that a results table holds at this method version.

    ``by_settings``: a row whose key is not known counts for the cell with its settings, as the table shows them, and its seed.
    UserError when the file cannot be read, lacks a column or holds something that is no number.
    """
    wanted = {cell.sha256: cell for cell in cells}
    alike = {_shown(cell): cell for cell in cells} if by_settings else {}
    rows = {}
    for number, line in enumerate(read_lines(path), start=2):
        cell = wanted.get(line["config_sha256"])
        if cell is None and by_settings:
            cell = alike.get((line.get("seed", ""), *(line.get(key, "") for key in cells[0].settings)))
        if cell is not None and line["status"] == FINISHED and line["method_version"] == str(method_version):
            try:
                measured = {name: _number(name, line.get(name) or "") for name in MEASURED}
                row = Row(cell.sha256, method_version, cell.seed, FINISHED, cell.settings, **measured)
                _ = row.rounds, row.diagnosed
            except ValueError as error:
                raise UserError(f"--from {path}, line {number}: {error}") from error
            rows[cell.sha256] = row
    return rows


def _shown(cell: Cell) -> tuple[str, ...]:
    return (str(cell.seed), *(show_value(value) for value in cell.settings.values()))


def read_lines(path: Path) -> list[dict[str, str]]:
    """Return the lines of a results table by column; UserError when it cannot be read or lacks a column."""
    try:
        with open(plain_file(path), newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--from {path}: cannot be read as a table: {error}") from error
    for number, line in enumerate(lines, start=2):
        missing = [name for name in ("config_sha256", "method_version", "status", "accuracy") if line.get(name) is None]
        if missing:
            raise UserError(f"--from {path}, line {number}: no column {', '.join(missing)}; want a results.csv of a study")
    return lines


def column_names(keys: Sequence[str]) -> list[str]:
    """Return the headings of the grid keys in a table."""
    short = short_names(list(keys))
    return [short[key] for key in keys]


def _number(name: str, text: str) -> Any:
    if not text or name in WORDS:
        return text or None
    value = int(text) if name in ("steps", "generator_images") else float(text)
    if not math.isfinite(value):
        raise ValueError(f"{name}={text} is not finite")
    return value
