"""One look for all plots, and their way into a page: SVG that follows the page's colours, and the same as PNG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

from mpssl_fed.files import write_atomic
from mpssl_fed.names import escape as escape_character
from mpssl_fed.names import printable, shown

INK, MUTED, GRID = "#1b1b1f", "#6b6b76", "#e1e1e6"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c8c8c")
"""Okabe and Ito's colours, told apart with any colour vision; marker and line style differ too."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")

NARROWEST = 0.8
"""Of its natural width, down to which a plot shrinks on a narrow screen before it scrolls: its letters stay readable."""

PAGE_COLOURS = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
"""Colour in the figure -> colour in the page, which differs between its light and its dark form."""

LOOK: Any = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "text.parse_math": False,  # two dollar signs in a name are no formula
}


def plotted(name: str) -> str:
    """Return a name as a plot can show it: :func:`mpssl_fed.names.shown`, and escapes for what the font has no glyph for."""
    return drawable(shown(name))


def drawable(text: str) -> str:
    """Return ``text`` with an escape for each character that the font cannot draw: two boxes would look alike."""
    glyphs = _glyphs()
    return "".join(c if ord(c) in glyphs or c == "\n" else escape_character(c) for c in printable(text))


@cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def style(index: int) -> dict[str, Any]:
    """Return colour, marker and line style of the series with this index; each time the colours are used up, the others move on."""
    other = index + index // len(SERIES)
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": MARKERS[other % len(MARKERS)],
        "linestyle": LINES[other % len(LINES)],
    }


@contextmanager
def figure(name: str, width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure in the house's look; ids inside its SVG depend on ``name`` and the content alone."""
    with mpl.rc_context({**LOOK, "svg.hashsalt": name}):
        yield Figure(figsize=(width, height), layout="constrained")


def plain_grid(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Keep grid lines across one axis alone."""
    axes.grid(False)
    axes.grid(True, axis=axis)


def limits(words: str) -> tuple[float, float]:
    """Return what a quantity with this label can be: a share in percent, else any number from 0 up."""
    return (0.0, 100.0) if "%" in words else (0.0, math.inf)


def within(axes: Axes, axis: Literal["x", "y"], words: str) -> None:
    """Let an axis end where its quantity does; what is drawn there with ``clip_on=False`` stays whole."""
    low, high = limits(words)
    first, last = axes.get_xlim() if axis == "x" else axes.get_ylim()
    first, last = max(first, low), min(last, high)
    (axes.set_xlim if axis == "x" else axes.set_ylim)(first, last if last > first else first + 1)


def save(drawn: Figure, folder: Path, name: str, words: str) -> str:
    """Write ``folder/name.svg`` and ``.png`` and return the SVG for a page, with ``words`` as its text alternative.

    To be called inside :func:`figure`. What the font cannot draw is escaped, but for the words of ticks, which matplotlib sets anew
    when it draws: give them as :func:`plotted`.
    """
    for text in drawn.findobj(Text):
        text.set_text(drawable(text.get_text()))
    png, svg = io.BytesIO(), io.StringIO()
    drawn.savefig(png, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    drawn.set_layout_engine("none")  # keeps the places that the first drawing found
    drawn.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    write_atomic(folder / f"{name}.png", png.getvalue())
    write_atomic(folder / f"{name}.svg", svg.getvalue())
    return inline(svg.getvalue(), name, words)


def inline(svg: str, name: str, words: str) -> str:
    """Return an SVG file as an element of a page: no prolog, ids that are the plot's own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _of_page(tag[0], name), svg)  # text between tags is someone's own
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])  # type: ignore[index]
    size = f"width:{width:g}pt;min-width:{NARROWEST * width:g}pt"
    head = f'<svg role="img" aria-label="{escape(words, quote=True)}" style="{size}"'
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", head, 1)


def _of_page(tag: str, name: str) -> str:
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = re.sub(r'href="#', f'href="#{name}-', tag)
    for colour, replacement in PAGE_COLOURS.items():
        tag = tag.replace(colour, replacement)
    return tag
