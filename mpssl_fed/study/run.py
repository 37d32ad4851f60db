"""Running a study: what is missing is run, what is finished is kept, and the tables are written at the end."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mpssl_fed.errors import UserError, option
from mpssl_fed.files import write_atomic
from mpssl_fed.method_version import METHOD_VERSION
from mpssl_fed.runs.lock import LOCK, holding, refuse_held
from mpssl_fed.runs.reader import MANIFEST
from mpssl_fed.runs.where import refuse_within_data
from mpssl_fed.runs.written import clear
from mpssl_fed.study.analysis import arms_of
from mpssl_fed.study.cell import Task
from mpssl_fed.study.declared import declare
from mpssl_fed.study.featured import featured
from mpssl_fed.study.folder import (
    STUDY_FILE,
    Outcome,
    cell_folder,
    failure_file,
    finished_rows,
    log_file,
    table_rows,
    taken_words,
    version_file,
)
from mpssl_fed.study.grid import Plan
from mpssl_fed.study.progress import StudyProgress
from mpssl_fed.study.results import Row, write_result
from mpssl_fed.study.sequential import due

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
    "evaluation.json",
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
    """Run the cells that the study wants and that have no result yet, and return all rows.

    Which cells a study with a seed rule wants is decided anew after each row, from rows alone (see ``sequential``).

    Results count when the cell's key and the method version agree; they are sought in ``output`` and in the table ``from_csv``.
    A failed cell is a row with its error and does not stop the rest; it is tried again next time. On Ctrl-C the workers are
    ended, what is finished stays and the outcome says ``interrupted``. UserError when ``output`` is something else, or in
    use by another study.
    """
    refuse_within_data(output, [cell.config for cell in plan.first])
    _check_output(output)
    with holding(output):
        rows, table = finished_rows(plan, output), {} if from_csv is None else table_rows(plan, from_csv)
        _check_version(plan, table | rows, overwrite)
        write_atomic(output / STUDY_FILE, plan.to_yaml())
        (output / "cells").mkdir(exist_ok=True)
        declare(plan, output, rows)
        if overwrite:
            _forget(plan, output)
            rows = finished_rows(plan, output)
        rows = table | rows
        if from_csv is not None:
            print(taken_words(plan, from_csv), flush=True)
        wanted = due(plan, rows)
        finished = sum(cell.sha256 in rows for cell in wanted)
        begun = {cell.sha256 for cell in wanted} | set(rows)
        tasks = [Task.of(cell, output, _of_privacy(plan)) for cell in wanted if cell.sha256 not in rows]
        interrupted = False
        with StudyProgress(len(wanted), finished) as progress:
            cells = _execute(tasks, workers, executor)
            try:
                for row in cells:
                    rows[row.config_sha256] = row
                    _note_failure(output, row)
                    more = [cell for cell in due(plan, rows) if cell.sha256 not in begun]
                    begun |= {cell.sha256 for cell in more}
                    tasks += [Task.of(cell, output, _of_privacy(plan)) for cell in more]
                    progress.add(len(more))
                    progress.ended(row)
            except KeyboardInterrupt:
                interrupted = True
            finally:
                cells.close()
        if interrupted:
            rows |= finished_rows(plan, output)  # a worker's word of its row may have been on its way
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
    (output / MANIFEST).unlink(missing_ok=True)  # it goes first and comes last: it says that all else is there
    clear(output, keep=("report.html",))
    for name in (*(name for name in RUN_FILES if name != MANIFEST), MANIFEST):
        source, target = cell / name, output / name
        if target.is_symlink():
            target.unlink()  # the link alone: nothing is written through it
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
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


def _check_version(plan: Plan, rows: Mapping[str, Row], overwrite: bool) -> None:
    """Refuse to run cells of a kept table's study by another version of the method: they would not be its rows."""
    version = plan.study.method_version
    missing = sum(cell.sha256 not in rows for cell in due(plan, rows))
    if version not in (None, METHOD_VERSION) and (missing or overwrite):
        raise UserError(
            f"study {plan.name} is of method version {version}, and this toolkit runs {METHOD_VERSION}: its {missing} missing "
            "cells cannot be run; give --from its results.csv, or take the shipped study for new results"
        )


def _check_output(output: Path) -> None:
    """Refuse a folder that holds something but no study: its files could be taken for the study's, or be overwritten."""
    where = option("output", str(output))
    if output.is_symlink() and not output.exists():
        raise UserError(f"{where}: is a link to nothing; remove it or give another folder")
    if output.exists() and not output.is_dir():
        raise UserError(f"{where}: is a file; give a folder")
    if not output.is_dir():
        return
    refuse_held(output)
    # a temporary file of STUDY_FILE is all that is there of a study that was killed while it wrote its first file
    others = [item for item in output.iterdir() if item.name != LOCK and not item.name.startswith(f".{STUDY_FILE}.")]
    if others and not (output / STUDY_FILE).is_file():
        raise UserError(f"{where}: exists and is no study; give another folder or remove it")


def _forget(plan: Plan, output: Path) -> None:
    for cell in plan.cells:
        (cell_folder(output, cell) / "result.json").unlink(missing_ok=True)
        version_file(output, cell).unlink(missing_ok=True)  # so that the cell overwrites its run rather than go on with it
        failure_file(output, cell).unlink(missing_ok=True)
        log_file(output, cell).unlink(missing_ok=True)


def _note_failure(output: Path, row: Row) -> None:
    """Keep a failed row for a later report; forget it once the cell has finished."""
    file = output / "logs" / f"{row.config_sha256[:12]}.failed.json"
    if row.finished:
        file.unlink(missing_ok=True)
    else:
        write_result(file, row)
