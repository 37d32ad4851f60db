"""How far a study is: a bar with time left on a terminal, one line a cell elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mpssl_fed.report.table import duration
from mpssl_fed.study.grid import label
from mpssl_fed.study.results import Row


class StudyProgress:
    """Counts cells as they end. Time left assumes that the rest goes at the pace of the cells that ran here."""

    def __init__(self, cells: int, finished: int, console: Console | None = None) -> None:
        self.cells, self.done = cells, finished
        self.already = finished
        self.started = time.monotonic()
        self.console = console or Console(highlight=False, emoji=False)
        columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self.task = self.bar.add_task("cells", total=cells, completed=finished, left="")

    def __enter__(self) -> StudyProgress:
        if self.already:
            self.console.print(f"{self.already} of {self.cells} cells are finished already", soft_wrap=True)
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def add(self, cells: int) -> None:
        """Tell that there are more cells than was known."""
        self.cells += cells
        self.bar.update(self.task, total=self.cells)

    def ended(self, row: Row) -> None:
        """Tell that a cell has ended."""
        self.done += 1
        left = f"about {duration(self.seconds_left())} left" if self.done < self.cells else ""
        what = f"accuracy {100 * (row.accuracy or 0):.1f} %, {row.seconds or 0:.1f} s" if row.finished else f"FAILED: {row.error}"
        line = f"{self.done}/{self.cells}  {label(row.settings)}  seed {row.seed}: {what}"
        self.console.print(line if self.console.is_terminal or not left else f"{line}; {left}", soft_wrap=True, markup=False)
        self.bar.update(self.task, completed=self.done, left=left)

    def seconds_left(self) -> float:
        """Return the seconds that the rest will take if it goes on as until now."""
        ran = self.done - self.already
        return (time.monotonic() - self.started) / ran * (self.cells - self.done)
