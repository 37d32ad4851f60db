"""The plot of epsilon against accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpssl_fed.report.svg import INK, MUTED, SERIES, figure, plain_grid, save, within
from mpssl_fed.study.report.plots import interval
from mpssl_fed.study.report.points import Point, epsilon_words, series_of

APART = 0.18
"""Between the series at one epsilon, of the way to the next."""
MARKERS = "sod"
A_ROW = 3
"""Panels beside each other; more stand in rows of two."""


def plot(folder: Path, points: Sequence[Point]) -> str:
    """Plot the points by epsilon, in steps of the values that occur, one panel a data set; return the SVG for the page."""
    groups = list(dict.fromkeys(point.group for point in points))
    values, series = sorted({point.epsilon for point in points}), series_of(points)
    side = {name: APART * (place - (len(series) - 1) / 2) for place, name in enumerate(series)}
    columns = len(groups) if len(groups) <= A_ROW else 2
    rows = -(-len(groups) // columns)
    with figure("pareto", 1.4 + 4.2 * columns, 0.6 + 3.3 * rows) as drawn:
        panels = drawn.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for empty in panels[len(groups) :]:
            empty.set_axis_off()
        for axes, group in zip(panels, groups, strict=False):
            own = [point for point in points if point.group == group]
            best = sorted((point for point in own if point.on_front), key=lambda point: point.epsilon)
            at = [values.index(point.epsilon) + side[point.series] for point in best]
            axes.step(at, [100 * p.accuracy.mean for p in best], where="post", color=MUTED, linewidth=1.0, zorder=1)
            axes.plot(at, [100 * p.accuracy.mean for p in best], "o", markersize=11, markerfacecolor="none", color=MUTED,
                      zorder=1, clip_on=False)  # fmt: skip
            for place, name in enumerate(series):
                for number, point in enumerate(point for point in own if point.series == name):
                    look = (SERIES[place], MARKERS[place], "" if number else name)
                    _draw(axes, point, values.index(point.epsilon) + side[name], *look)
            axes.set_xticks(range(len(values)), [epsilon_words(value) for value in values])
            axes.set(xlabel="Epsilon", title=group if len(groups) > 1 else "")
            axes.set_ylabel("Accuracy (%)" if axes in panels[::columns] else "")
            axes.set_xlim(-0.5, len(values) - 0.5)
            plain_grid(axes, "y")
        within(panels[0], "y", "%")
        handles = {word: handle for axes in panels for handle, word in zip(*axes.get_legend_handles_labels(), strict=True)}
        drawn.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=len(series))
        return save(drawn, folder, "pareto", "Accuracy against epsilon, arms that no other dominates ringed")


def _draw(axes: Any, point: Point, x: float, colour: str, marker: str, name: str) -> None:
    """Draw one point; where it was audited, its size grows with the attacks' success."""
    size = 4.5 if point.success is None else 4 + 30 * max(0.0, point.success - 0.5)
    face = colour if point.complete else "none"
    low, high = interval(point.accuracy, (0.0, 1.0))
    reach = [[100 * (point.accuracy.mean - low)], [100 * (high - point.accuracy.mean)]]
    axes.errorbar(
        x, 100 * point.accuracy.mean, yerr=reach, color=colour, marker=marker, markersize=size, markerfacecolor=face,
        elinewidth=0.9, linestyle="", label=name or None, alpha=0.9, clip_on=False,
    )  # fmt: skip
    if point.on_front:
        axes.annotate(f"{100 * point.accuracy.mean:.1f}", (x, 100 * point.accuracy.mean), xytext=(9, -3), color=INK, fontsize=8,
                      textcoords="offset points")  # fmt: skip
