"""Running a study: what is missing is run, what is finished is kept, and the tables are written at the end."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mpssl_fed.errors import UserError
from mpssl_fed.files import write_atomic
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.runs.reader import MANIFEST
from mpssl_fed.study.analysis import arms_of
from mpssl_fed.study.cell import Task
from mpssl_fed.study.featured import featured
from mpssl_fed.study.folder import STUDY_FILE, Outcome, cell_folder, failure_file, finished_rows, log_file
from mpssl_fed.study.grid import Plan
from mpssl_fed.study.progress import StudyProgress
from mpssl_fed.study.results import Row, read_csv, write_result

Executor = Literal["processes", "ray"]
RUN_FILES = (
    "config.yaml",
    "manifest.json",
    "metrics.jsonl",
    "metrics.csv",
    "model.safetensors",
    "labels.json",
    "generator.png",
    "diagnosis.json",
    "checkpoints",
    "sites",
)
"""What of a run directory is copied to the top of a study's folder for ``show``; the report there is the study's."""


def run_study(
    plan: Plan,
    output: Path,
    workers: int,
    executor: Executor = "processes",
    from_csv: Path | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Run the cells that have no result yet and return all rows.

    Results count when the cell's key and the method version agree; they are sought in ``output`` and in the table ``from_csv``.
    A failed cell is a row with its error and does not stop the rest; it is tried again next time. On Ctrl-C the workers are
    ended, what is finished stays and the outcome says ``interrupted``. UserError when ``output`` is something else, or in
    use by another study.
    """
    _check_output(output)
    (output / "cells").mkdir(parents=True, exist_ok=True)
    with _alone(output):
        write_atomic(output / STUDY_FILE, plan.to_yaml())
        if overwrite:
            _forget(plan, output)
        rows = finished_rows(plan, output)
        if from_csv is not None:
            rows = read_csv(from_csv, plan.cells, METHOD_VERSION) | rows
        missing = [cell for cell in plan.cells if cell.sha256 not in rows]
        interrupted = False
        with StudyProgress(len(plan.cells), len(plan.cells) - len(missing)) as progress:
            cells = _execute([Task.of(cell, output, _of_privacy(plan)) for cell in missing], workers, executor)
            try:
                for row in cells:
                    rows[row.config_sha256] = row
                    _note_failure(output, row)
                    progress.ended(row)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                cells.close()
        if _of_privacy(plan) and not interrupted:
            _attack_finished(plan, output, rows)
        outcome = Outcome(plan, output, rows, interrupted)
        show_run_files(outcome)
    return outcome


def show_run_files(outcome: Outcome) -> None:
    """Where the study wants it (``show``), make the run files at the top of its folder those of its featured run.

    What is there already of that run stays, with all that was added to it since; of another run nothing is left.
    """
    chosen = featured(outcome, arms_of(outcome)) if outcome.plan.study.show is not None else None
    if chosen is None:
        return
    cell, output = cell_folder(outcome.output, chosen.cell), outcome.output
    if _same_file(cell / MANIFEST, output / MANIFEST):
        return
    for name in (*(name for name in RUN_FILES if name != MANIFEST), MANIFEST):  # the manifest last: it says that all is there
        source, target = cell / name, output / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.is_file():
            write_atomic(target, source.read_bytes())


def _same_file(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def _execute(tasks: list[Task], workers: int, executor: Executor) -> Generator[Row]:
    if executor == "ray":
        from mpssl_fed.study.ray_pool import run_on_ray

        return run_on_ray(tasks, workers)
    from mpssl_fed.study.pool import run_in_processes

    return run_in_processes(tasks, workers)


def _of_privacy(plan: Plan) -> bool:
    return any(cell.config.privacy.on for cell in plan.cells)


def _attack_finished(plan: Plan, output: Path, rows: dict[str, Row]) -> None:
    """Attack the models of cells that finished before rows held the attack, where their run directories are here."""
    from mpssl_fed.audit.one_number import membership_auroc

    for cell in plan.cells:
        row, folder = rows.get(cell.sha256), cell_folder(output, cell)
        if row is not None and row.finished and row.membership is None and (folder / "model.safetensors").is_file():
            rows[cell.sha256] = replace(row, membership=membership_auroc(folder))
            write_result(folder / "result.json", rows[cell.sha256])


def _check_output(output: Path) -> None:
    """Refuse a folder that holds something but no study: its files could be taken for the study's, or be overwritten."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; give a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / STUDY_FILE).is_file():
        raise UserError(f"--output {output}: exists and is no study; give another folder or remove it")


def _forget(plan: Plan, output: Path) -> None:
    for cell in plan.cells:
        shutil.rmtree(cell_folder(output, cell), ignore_errors=True)
        failure_file(output, cell).unlink(missing_ok=True)
        log_file(output, cell).unlink(missing_ok=True)


def _note_failure(output: Path, row: Row) -> None:
    """Keep a failed row for a later report; forget it once the cell has finished."""
    file = output / "logs" / f"{row.config_sha256[:12]}.failed.json"
    if row.finished:
        file.unlink(missing_ok=True)
    else:
        write_result(file, row)


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Hold the study's folder; UserError when another process does. The system lets go of it when this process ends."""
    with open(output / ".lock", "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"--output {output}: another study is running there; wait for it or give another folder") from error
        yield
