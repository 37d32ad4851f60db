"""What the docs say, word for word: docs/privacy.md and docs/dataflow.svg, which a wheel carries beside this module."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from mpssl_fed.dossier.facts import Quote, Source
from mpssl_fed.errors import UserError
from mpssl_fed.files import read_text
from mpssl_fed.report.table import Table, make_table

PRIVACY, DRAWING = "privacy.md", "dataflow.svg"


def docs_folder() -> Path:
    """Return the folder of the docs: packaged, or the checkout's."""
    packaged = Path(__file__).parent / "docs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "docs"


def quote(heading: str, only: str = "") -> Quote:
    """Return what docs/privacy.md says under ``heading``; ``only``: of its points and table rows those that match this pattern.

    UserError where the page or the heading is missing.
    """
    text = _privacy()
    begins = text.find(f"\n## {heading}\n")
    if begins < 0:
        raise UserError(f"{docs_folder() / PRIVACY}: no section '{heading}'; reinstall mpssl-fed")
    body = text[begins + len(heading) + 5 :].split("\n## ")[0].strip()
    blocks = [_block(part, only) for part in re.split(r"\n\s*\n", body)]
    return Quote(Source(f"docs/{PRIVACY}", heading), tuple(block for block in blocks if block))


def drawing() -> str:
    """Return the picture of the data flow as an element of a page; what its style sheet names is named in it alone."""
    svg = read_text(docs_folder() / DRAWING)

    def confined(sheet: re.Match[str]) -> str:
        return re.sub(r"(?<![\w-])(\.[a-z]+|text)(?= \{)", r".dataflow \1", sheet[0])

    svg = re.sub(r"<style>.*?</style>", confined, svg, flags=re.DOTALL)
    svg = svg.replace('id="head"', 'id="dataflow-head"').replace("url(#head)", "url(#dataflow-head)")
    return svg[svg.index("<svg") :].replace("<svg", '<svg class="dataflow"', 1)


@cache
def _privacy() -> str:
    return read_text(docs_folder() / PRIVACY)


def _block(text: str, only: str) -> str | tuple[str, ...] | Table | None:
    lines = text.splitlines()
    if lines[0].startswith("|"):
        rows = [[_plain(cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        kept = [row for row in rows[2:] if re.search(only, " ".join(row))]
        return make_table(rows[0], kept, rows[0]) if kept else None
    if lines[0].startswith("- "):
        points = [_plain(point) for point in re.split(r"\n- ", text[2:])]
        return tuple(point for point in points if re.search(only, point)) or None
    return None if only else _plain(text)


def _plain(text: str) -> str:
    """Return Markdown as text in which only code is marked."""
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    return " ".join(text.replace("**", "").split())
