"""Tables as plain values, and their forms: HTML takes them as they are, Markdown and the terminal are written here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from mpssl_fed.names import printable

NOTHING = "–"
LONGEST_S = 3.6e8


@dataclass(frozen=True)
class TableCell:
    """Text with a class of the style sheet and an address, if any."""

    text: str
    style: str = ""
    link: str = ""


@dataclass(frozen=True)
class TableRow:
    """The cells of a line by column."""

    cells: tuple[tuple[str, TableCell], ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Columns, which of them are numbers, and lines."""

    columns: tuple[str, ...]
    numeric: frozenset[str]
    rows: tuple[TableRow, ...]


def make_table(columns: Sequence[str], lines: Sequence[Sequence[str | TableCell]], words: Sequence[str] = ()) -> Table:
    """Return a table whose columns hold numbers, but for those in ``words``."""
    rows = [
        TableRow(
            tuple((c, cell if isinstance(cell, TableCell) else TableCell(cell)) for c, cell in zip(columns, line, strict=True))
        )
        for line in lines
    ]
    return Table(tuple(columns), frozenset(columns) - set(words), tuple(rows))


def to_markdown(table: Table) -> str:
    """Return the table as GitHub's Markdown."""
    head = "| " + " | ".join(table.columns) + " |"
    rule = "|" + "|".join("---:" if column in table.numeric else "---" for column in table.columns) + "|"
    lines = ["| " + " | ".join(_markdown(cell.text) for _, cell in row.cells) + " |" for row in table.rows]
    return "\n".join([head, rule, *lines]) + "\n"


def _markdown(text: str) -> str:
    """Return the text of a cell with a backslash before what Markdown would take for a mark of its own."""
    return re.sub(r"[\\|`*\[]|<(?=[A-Za-z/!])", lambda mark: "\\" + mark[0], printable(text).replace("\n", " "))


def to_terminal(table: Table, title: str = "") -> RichTable:
    """Return the table for a terminal."""
    colour = {"better": "green", "worse": "red"}
    rich = RichTable(
        title=Text(printable(title)) if title else None, title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    for column in table.columns:
        rich.add_column(Text(printable(column)), justify="right" if column in table.numeric else "left", no_wrap=True)
    for row in table.rows:
        cells = [Text(printable(cell.text), style=colour.get(cell.style, "")) for _, cell in row.cells]
        rich.add_row(*cells, style="dim" if row.kind == "baseline" else None)
    return rich


def seconds_words(seconds: float) -> str:
    """Return seconds in words, with a decimal below ten."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def duration(seconds: float) -> str:
    """Return seconds in words: ``42 s``, ``3 min 05 s``, ``2 h 10 min``; of what no run takes ``over 100,000 h``."""
    if not seconds < LONGEST_S:
        return "over 100,000 h"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
