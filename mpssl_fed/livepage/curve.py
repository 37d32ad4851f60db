"""Lines over rounds as SVG that a strict content policy lets pass: attributes and classes, no style of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mpssl_fed.names import shown

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 240, 44, 12, 26, 40
SERIES = 8
"""Colours of the style sheet."""

Points = Sequence[tuple[int, float]]


def curve(title: str, lines: Sequence[tuple[str, Points]], last: int) -> str:
    """Return accuracies (0..1) in percent by round, for rounds 0 to ``last``; empty where there is no point to draw."""
    drawn = [(label, points) for label, points in lines if points][:SERIES]
    if not drawn:
        return ""
    values = [100 * y for _, points in drawn for _, y in points]
    low, high = 10 * math.floor(min(values) / 10), max(10 * math.ceil(max(values) / 10), 10)
    low = min(low, high - 10)
    end = max(last, 1, *(x for _, points in drawn for x, _ in points))

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / end
        return round(across, 1), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low), 1)

    parts = [f'<text x="{LEFT}" y="16">{escape(title)}</text>']
    for y in range(low, high + 1, 10 if high - low <= 50 else 20):
        (x1, height), (x2, _) = at(0, y), at(end, y)
        parts.append(f'<line class="grid" x1="{x1}" x2="{x2}" y1="{height}" y2="{height}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{height + 4}" text-anchor="end">{y}</text>')
    step = max(1, math.ceil(end / 6))
    parts += [
        f'<text class="tick" x="{at(x, low)[0]}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x}</text>'
        for x in range(0, end + 1, step)
    ]
    parts.append(f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">Round</text>')
    for number, (_, points) in enumerate(drawn, start=1):
        places = [at(x, 100 * y) for x, y in points]
        way, end_of = " ".join(f"{x},{y}" for x, y in places), places[-1]
        mark = f'<circle class="s{number}" cx="{end_of[0]}" cy="{end_of[1]}" r="3"/>'
        parts.append(f'<polyline class="s{number}" points="{way}"/>{mark}')
    words = "; ".join(f"{shown(label)} {100 * points[-1][1]:.1f} % after round {points[-1][0]}" for label, points in drawn)
    head = f'<svg class="live" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {words}", quote=True)}">'
    legend = "" if len(drawn) == 1 else _legend([label for label, _ in drawn])
    return f"{head}{''.join(parts)}</svg>{legend}"


def _legend(labels: Sequence[str]) -> str:
    items = "".join(f'<li class="s{number}">{escape(shown(label))}</li>' for number, label in enumerate(labels, start=1))
    return f'<ul class="legend">{items}</ul>'
