"""A study as it goes: which of its runs are done, at work or failed, the curves of those at work, and what is left."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.errors import UserError
from mpssl_fed.livepage.curve import curve
from mpssl_fed.livepage.of_run import goes_on, require_short
from mpssl_fed.livepage.view import View
from mpssl_fed.names import shown
from mpssl_fed.report.table import NOTHING, Table, duration, make_table
from mpssl_fed.runs.lock import is_held
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.rounds import Round
from mpssl_fed.study.folder import STUDY_FILE, Outcome, cell_folder, read_outcome
from mpssl_fed.study.grid import Cell, Plan, load_study

SHOWN_CELLS = 60


@dataclass
class StudyView:
    """The study in ``folder``, whose file is read anew only when it has changed."""

    folder: Path
    _plan: Plan | None = None
    _read_at: float = 0.0

    def __call__(self) -> View:
        """Return the study at this moment; UserError while it cannot be told."""
        plan = self._current()
        outcome = read_outcome(plan, self.folder)
        cells, metric = outcome.due, plan.study.metric
        working = [
            (cell, rounds) for cell in cells if cell.sha256 not in outcome.rows and (rounds := self._at_work(cell)) is not None
        ]
        done, going = len(outcome.rows), is_held(self.folder)
        seconds = [row.seconds for row in outcome.rows.values() if row.finished and row.seconds]
        facts = [("runs", f"{done} of {len(cells)}"), ("at work", str(len(working))), ("failed", str(len(outcome.failed)))]
        if going and done < len(cells):
            left = (len(cells) - done) * sum(seconds) / len(seconds) / max(1, len(working)) if seconds else 0
            facts.append(("time left", f"about {duration(left)}" if seconds else "not known yet"))
        lines = [(f"{cell.label}, seed {cell.seed}", _accuracy(rounds)) for cell, rounds in working]
        return View(
            heading=plan.study.title or shown(self.folder.absolute().name),
            small=plan.study.note or f"compared by {metric}",
            finding=_finding(done, len(cells), going),
            facts=facts,
            curve=curve(
                "Accuracy of what is at work (%)", lines, max((cell.config.private_rounds for cell, _ in working), default=1)
            ),
            tables=[("Runs", _table(outcome, working))],
        )

    def _current(self) -> Plan:
        file = self.folder / STUDY_FILE
        changed = file.stat().st_mtime
        if self._plan is None or changed != self._read_at:
            self._plan, self._read_at = load_study(file), changed
        return self._plan

    def _at_work(self, cell: Cell) -> list[Round] | None:
        """Return the rounds so far of a cell that a process is writing, else None."""
        folder = cell_folder(self.folder, cell)
        with suppress(UserError, OSError):  # it has just begun, or is being overwritten
            require_short(folder)
            if goes_on(folder, read_manifest(folder)):
                return read_history(folder)
        return None


def _finding(done: int, cells: int, going: bool) -> str:
    if done == cells:
        return f"All {cells} runs that the study wants have ended."
    return f"{done} of {cells} runs have ended." + ("" if going else " No process works on the rest; the same command goes on.")


def _accuracy(rounds: Sequence[Round]) -> list[tuple[int, float]]:
    return [(one.number, float(one.accuracy)) for one in rounds if one.accuracy is not None]


def _table(outcome: Outcome, working: Sequence[tuple[Cell, list[Round]]]) -> Table:
    """Return what is at work, then what failed, then the rest that ended, the latest first."""
    lines = []
    for cell, rounds in working:
        accuracy = _accuracy(rounds)
        done = rounds[-1].number if rounds else 0
        state = f"round {done} of {cell.config.private_rounds}"
        took = duration(sum(one.seconds for one in rounds))
        lines.append([cell.label, str(cell.seed), state, f"{100 * accuracy[-1][1]:.1f}" if accuracy else NOTHING, took])
    cells = {cell.sha256: cell for cell in outcome.plan.cells}
    ended = sorted(outcome.rows.values(), key=lambda row: (row.finished, -_ended_at(outcome, row.config_sha256)))
    for row in ended[:SHOWN_CELLS]:
        state = "done" if row.finished else f"failed: {row.error}"[:300]
        accuracy_words = NOTHING if row.accuracy is None else f"{100 * row.accuracy:.1f}"
        lines.append([cells[row.config_sha256].label, str(row.seed), state, accuracy_words, duration(row.seconds or 0)])
    return make_table(["settings", "seed", "state", "accuracy (%)", "time"], lines, ["settings", "state"])


def _ended_at(outcome: Outcome, sha256: str) -> float:
    with suppress(OSError):
        return (outcome.output / "cells" / sha256[:12] / "result.json").stat().st_mtime
    return 0.0
