"""The folder of a study: where its cells lie, which have finished, what came out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.method_version import METHOD_VERSION
from mpssl_fed.study.grid import Cell, Plan
from mpssl_fed.study.headline import OF_EVALUATION
from mpssl_fed.study.measured import completed
from mpssl_fed.study.result_table import read_csv, read_lines
from mpssl_fed.study.results import FINISHED, Row, read_result
from mpssl_fed.study.sequential import due


def cell_folder(output: Path, cell: Cell) -> Path:
    """Return the run directory of a cell."""
    return output / "cells" / cell.id


def log_file(output: Path, cell: Cell) -> Path:
    """Return the file that holds what the cell printed."""
    return output / "logs" / f"{cell.id}.log"


def version_file(output: Path, cell: Cell) -> Path:
    """Return the file that says which method version and config the cell began with."""
    return log_file(output, cell).with_suffix(".version")


def stored_row(output: Path, cell: Cell) -> Row | None:
    """Return the row of a cell that has finished at this method version, else None."""
    row = read_result(cell_folder(output, cell) / "result.json")
    if row is None or (row.config_sha256, row.method_version) != (cell.sha256, cell.method_version or METHOD_VERSION):
        return None
    return completed(dataclasses.replace(row, settings=cell.settings), cell_folder(output, cell))


STUDY_FILE = "study.yaml"


@dataclass(frozen=True)
class Outcome:
    """The rows of a study in the order of its cells; a cell that was not reached has none."""

    plan: Plan
    output: Path
    rows: dict[str, Row]
    interrupted: bool = False

    @property
    def finished(self) -> list[Row]:
        """Rows with a value of the study's metric."""
        return [row for row in self.ordered if row.has(self.plan.study.metric)]

    @property
    def failed(self) -> list[Row]:
        """Rows of cells that failed, or ended without a value of the study's metric."""
        metric = self.plan.study.metric
        why = "it has diverged, or ended before this metric was kept" if metric in OF_EVALUATION else "it has diverged"
        diverged = f"the run ended, but with no finite {metric}: {why}, so its arm has a seed less"
        return [dataclasses.replace(row, error=diverged) if row.finished else row for row in self.ordered if not row.has(metric)]

    @property
    def ordered(self) -> list[Row]:
        """All rows, in the order of the cells."""
        return [self.rows[cell.sha256] for cell in self.plan.cells if cell.sha256 in self.rows]

    @property
    def due(self) -> list[Cell]:
        """The cells that the study wants by now, and those that it has besides."""
        wanted = {cell.sha256 for cell in due(self.plan, self.rows)} | self.rows.keys()
        return [cell for cell in self.plan.cells if cell.sha256 in wanted]

    def folder(self, row: Row) -> Path:
        """Return the run directory of a row (which need not exist for rows from a table)."""
        return self.output / "cells" / row.config_sha256[:12]


def finished_rows(plan: Plan, output: Path) -> dict[str, Row]:
    """Return key -> row of the cells that have finished in ``output`` at this method version."""
    stored = ((cell.sha256, stored_row(output, cell)) for cell in plan.cells)
    return {sha: row for sha, row in stored if row is not None}


def table_rows(plan: Plan, table: Path) -> dict[str, Row]:
    """Return key -> row of the cells that a results table holds; rows of a kept table also by their settings and seed."""
    version = plan.study.method_version
    return read_csv(table, plan.cells, version or METHOD_VERSION, by_settings=version is not None)


def taken_words(plan: Plan, table: Path) -> str:
    """Return in words how many rows of a table :func:`table_rows` takes, and why it leaves the others."""
    lines, taken = read_lines(table), len(table_rows(plan, table))
    version = str(plan.study.method_version or METHOD_VERSION)
    alike = [line for line in lines if line["method_version"] == version]
    failed = sum(line["status"] != FINISHED for line in alike)
    older, others = len(lines) - len(alike), len(alike) - failed - taken
    left = [f"{older} of another method version (it is {version} here)"] * bool(older) + [f"{failed} failed"] * bool(failed)
    left += [f"{others} of settings or seeds that this study does not have"] * bool(others)
    return f"--from {table}: {taken} of {len(lines)} rows taken" + (f"; left out: {', '.join(left)}" if left else "")


def read_outcome(plan: Plan, output: Path) -> Outcome:
    """Return the rows of a study that has run, failures and rows from a table included, without running anything."""
    rows = table_rows(plan, output / "results.csv") if (output / "results.csv").is_file() else {}
    failures = {cell.sha256: read_result(failure_file(output, cell)) for cell in plan.cells}
    rows = {sha: row for sha, row in failures.items() if row is not None} | rows | finished_rows(plan, output)
    return Outcome(plan, output, rows)


def failure_file(output: Path, cell: Cell) -> Path:
    """Return the file that keeps the row of a cell that failed."""
    return log_file(output, cell).with_suffix(".failed.json")
