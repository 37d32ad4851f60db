"""A study's ``results.csv``: written, and read again."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.files import plain_file, write_atomic
from mpssl_fed.study.grid import Cell
from mpssl_fed.study.keys import short_names, show_value
from mpssl_fed.study.results import FINISHED, MEASURED, WORDS, Row


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
