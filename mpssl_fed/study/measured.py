"""From a run directory to the row of its cell."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.report.signs import reached
from mpssl_fed.runs.reader import RunReader, read_diagnosis
from mpssl_fed.study.grid import Cell
from mpssl_fed.study.headline import OF_EVALUATION
from mpssl_fed.study.results import FAILED, FINISHED, Row


def row_of_run(cell: Cell, folder: Path, method_version: int, **measured: Any) -> Row:
    """Return the row of a finished run directory. Steps and generated images are summed over sites; seconds over all rounds."""
    run = RunReader(folder)
    accuracy, loss = run.accuracy, run.loss
    if not accuracy:
        raise UserError(f"{folder}: no round was evaluated")
    last = next(one for one in reversed(run.rounds) if one.accuracy is not None)
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
        balanced_accuracy=last.balanced,
        auroc=last.auroc,
        **_evaluated(run),
        **measured,
    )


def _evaluated(run: RunReader) -> dict[str, Any]:
    return {name: None if run.metrics is None else run.metrics.value(name) for name in OF_EVALUATION}


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
