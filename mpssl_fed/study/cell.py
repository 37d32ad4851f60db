"""Running one cell of a study in this process: a run directory, its report and its result row."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.files import write_atomic
from mpssl_fed.method_version import METHOD_VERSION
from mpssl_fed.runs.reader import is_run
from mpssl_fed.study.folder import cell_folder, log_file, version_file
from mpssl_fed.study.grid import Cell, Settings
from mpssl_fed.study.measured import failed_row, row_of_run
from mpssl_fed.study.results import Row, write_result


@dataclass(frozen=True)
class Task:
    """A cell and where it goes, as sent to a worker; attacked: whether its model is, at the end (see ``attack``)."""

    fields: dict[str, object]
    settings: Settings
    output: str
    attacked: bool = False

    @classmethod
    def of(cls, cell: Cell, output: Path, attacked: bool = False) -> Task:
        """Return the task of ``cell`` in the study folder ``output``."""
        return cls(cell.config.dump(), cell.settings, str(output.absolute()), attacked)

    @property
    def cell(self) -> Cell:
        """The cell."""
        return Cell(Config.model_validate(self.fields), self.settings)


def run_cell(task: Task) -> Row:
    """Run a cell to its end, going on from its last checkpoint if it was cut off; a failure becomes a row, not an exception.

    The run directory gets ``report.html`` and, last and atomically, ``result.json``: the mark of a finished cell.
    """
    cell, output = task.cell, Path(task.output)
    with _output_to(log_file(output, cell)), _listening() as heard:
        try:
            return _run(cell, output, task.attacked)
        except UserError as error:
            print(error)
            words = str(error)
        except Exception as error:  # noqa: BLE001  one bad cell, whatever is wrong with it, must not stop the others
            traceback.print_exc()
            words = f"{type(error).__name__}: {error}".strip(": ")
    return failed_row(cell, METHOD_VERSION, _explained(words, heard.raised))


def _explained(words: str, raised: str) -> str:
    """Return why a cell failed, with what a site raised (its message carries a code alone) and the cure where memory ran out."""
    if raised and "site-failed" in words:
        words += f" A site raised {raised[:300]}."
    if re.search(r"MemoryError|out of memory|allocate memory", words):
        words += (
            " Memory ran out: lower method.batch, method.lmo_batch or optim.batch_size, set method.micro_batch, or fewer --workers"
        )
    return words


class _Listener(logging.StreamHandler[TextIO]):
    """Prints what the package logs, and remembers the last exception in it."""

    raised = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            self.raised = f"{type(error).__name__}: {error}"
        super().emit(record)


@contextlib.contextmanager
def _listening() -> Iterator[_Listener]:
    logger, heard = logging.getLogger("mpssl_fed"), _Listener(sys.stderr)
    logger.addHandler(heard)
    try:
        yield heard
    finally:
        logger.removeHandler(heard)


def _run(cell: Cell, output: Path, attacked: bool) -> Row:
    from mpssl_fed import simulate
    from mpssl_fed.audit.one_number import membership_auroc
    from mpssl_fed.report.diagnosis import diagnose
    from mpssl_fed.report.run_report import write_run_report

    folder = cell_folder(output, cell)
    version = version_file(output, cell)
    begun = f"{METHOD_VERSION} {cell.config.sha256()}"  # the whole config: a checkpoint of an older schema is not gone on from
    resume = any((folder / "checkpoints").glob("*")) and _read(version) == begun
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(version, begun)
    output_there = cell.config.output.model_copy(update={"dir": str(folder)})
    one_process = cell.config.federation.model_copy(update={"workers": 1})  # cells stand side by side, and each is measured
    config = cell.config.model_copy(update={"output": output_there, "federation": one_process})
    _reset_peak_memory()
    started = time.process_time()
    simulate(config, resume=resume or not is_run(folder), overwrite=not resume and is_run(folder))
    cpu_seconds = None if resume else round(time.process_time() - started, 3)
    peak = _peak_memory_mb()
    diagnose(folder)
    found = membership_auroc(folder) if attacked else None
    row = row_of_run(cell, folder, METHOD_VERSION, cpu_seconds=cpu_seconds, peak_memory_mb=peak, membership=found)
    write_run_report(folder)
    write_result(folder / "result.json", row)
    return row


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _reset_peak_memory() -> None:
    """Let the kernel's peak count start anew, so that a worker's second cell does not report the first one's peak."""
    with contextlib.suppress(OSError):  # Linux alone has it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory_mb() -> float | None:
    """Return the peak resident memory of this process in MB since the reset; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


@contextlib.contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Send what this process prints, C libraries included, to the end of ``file``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with open(file, "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
