"""What the page shows at one moment, and how that becomes pieces of HTML, each of which is replaced when it has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpssl_fed.codes import Code
from mpssl_fed.page import render
from mpssl_fed.report.table import Table, make_table

PIECES = ("heading", "finding", "facts", "curve", "tables")
MISSING = "no answer before federation.deadline_s"
MOST_LETTERS, MOST_CODES = 400, 40
"""Of one text that a file says, and lines of a table of reasons."""


@dataclass(frozen=True)
class View:
    """A heading and its small print, what stands first, warnings, pairs of numbers, an SVG and tables with their titles."""

    heading: str
    small: str
    finding: str
    warnings: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    curve: str = ""
    tables: Sequence[tuple[str, Table]] = field(default_factory=tuple)


def pieces(view: View) -> dict[str, str]:
    """Return {id of its place in the page: HTML}; every text of the view is escaped, but for its SVG."""
    return {name: render("live_piece.html", piece=name, view=view) for name in PIECES}


def short(text: object) -> str:
    """Return ``text``, cut where no one would read on."""
    words = str(text)
    return words if len(words) <= MOST_LETTERS else f"{words[:MOST_LETTERS]}... ({len(words):,} characters)"


def reasons(counts: Mapping[str, int], what: str) -> Table:
    """Return a table of why so many of ``what`` were not taken: code, how often, and what the code means."""
    known = set(Code)
    lines = []
    for code, n in list(counts.items())[:MOST_CODES]:
        meaning = MISSING if code == "missing" else Code(code).means if code in known else ""
        lines.append([short(code), str(n) if abs(n) < 1e12 else f"{n:.3g}", meaning])
    return make_table(["code", what, "meaning"], lines, ["code", "meaning"])
