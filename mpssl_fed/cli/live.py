"""A run as it goes: a table that grows on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from mpssl_fed.config import Config
from mpssl_fed.runs import at_sites
from mpssl_fed.runs.progress import Lines, Progress
from mpssl_fed.runs.rounds import Round

FRAMES = 4
"""Drawings a second."""

SHOWN = 20
"""Rounds in the table; older ones scroll out of it."""


class LiveTable(Progress):
    """One row a round: loss, test or validation accuracy, seconds, sites that answered; and what was left out."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.records: list[Round] = []
        self.rounds, self.title, self.held_out = 0, "", "test"
        self.live: Live | None = None
        self.now, self.drawn = "", 0.0

    def start(self, config: Config, folder: str) -> None:
        """Show the empty table."""
        self.rounds = config.federation.rounds
        self.held_out = config.data.held_out
        self.title = f"{config.method.name or 'own method'}, {config.federation.sites} sites -> {folder}"
        self.live = Live(self._view(), console=self.console, refresh_per_second=FRAMES)
        self.live.start()

    def note(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, markup=False, emoji=False, highlight=False)

    def round(self, record: Round) -> None:
        """Add a row; what the sites told of the model is printed above the table."""
        self.records.append(record)
        for line in () if record.at_sites is None else at_sites.lines(record.number, record.at_sites):
            self.note(line)
        self.now = ""
        if self.live is not None:
            self.live.update(self._view())

    def step(self, what: str, done: int, total: int) -> None:
        """Show how far the work below the table is."""
        self.now = f"{what}: {done} of {total}"
        if self.live is not None and time.monotonic() - self.drawn >= 1 / FRAMES:
            self.drawn = time.monotonic()
            self.live.update(self._view())

    def end(self) -> None:
        """Leave the table as it is."""
        if self.live is not None:
            self.live.update(self._table())
            self.live.stop()

    def _view(self) -> Group:
        number = len(self.records) and self.records[-1].number + 1
        text = f"round {number} of {self.rounds}" if number <= self.rounds else "writing"
        dots = "line" if self.console.options.ascii_only else "dots"
        return Group(self._table(), Spinner(dots, text=self.now or text))

    def _table(self) -> Table:
        table = Table(
            "round",
            "loss",
            f"{self.held_out} accuracy",
            "seconds",
            "sites",
            "left out",
            title=Text(self.title),
            title_justify="left",
        )
        for record in self.records[-SHOWN:]:
            left_out = record.left_out()
            left_out += [f"{record.missing} missing"] if record.missing else []
            left_out += ["failed: weights kept"] if record.failed else []
            table.add_row(
                str(record.number),
                _number(record.train_loss),
                _number(record.accuracy),
                f"{record.seconds:.1f}",
                f"{record.answered}/{record.asked}",
                ", ".join(left_out),
            )
        return table


def progress() -> Progress:
    """Return the live table on a terminal, plain lines elsewhere."""
    console = Console()
    return LiveTable(console) if console.is_terminal else Lines(lambda text: print(text, flush=True))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def complain(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def resumable(tell: Callable[[str], None] = lambda text: complain(f"\n{text}")) -> Iterator[None]:
    """End with 130 at Ctrl-C, and say the command that goes on from the last finished round."""
    try:
        yield
    except KeyboardInterrupt:
        again = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
        line = shlex.join(["mpssl-fed", *again, "--resume"])
        tell(f"interrupted; every finished round is kept. Continue with: {line}")
        raise typer.Exit(130) from None
