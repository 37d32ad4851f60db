"""The plots of the reports. Each function writes NAME.svg and NAME.png into a folder and returns the SVG for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from mpssl_fed.report.svg import MUTED, figure, limits, plain_grid, plotted, save, style, within
from mpssl_fed.study.statistics import Estimate, estimate

Point = tuple[float, Sequence[float]]
"""(x, one value per seed)."""
Panels = Mapping[str, Mapping[str, Sequence[Point]]]
"""Panel title -> series name -> points. A series has the same colour in all panels."""


def series_panels(folder: Path, name: str, panels: Panels, x_label: str, y_label: str, log_x: bool = False) -> str:
    """Plot means over seeds with their 95 % interval as a band, one panel beside another with shared axes."""
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = list(dict.fromkeys(series for panel in panels.values() for series in panel))
    with figure(name, 2.8 * columns + (1.6 if columns < 3 else 0.4), 2.5 * rows + 0.5) as drawn:
        grid = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes in grid.flat[len(panels) - columns : len(panels)]:
            axes.tick_params(labelbottom=True)  # the lowest of its column, with an empty place below or not
        for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
            for series, points in panel.items():
                _band(axes, points, names.index(series), series, limits(y_label))
            axes.set_title(title)
            if log_x:
                _ticks_at(axes, sorted({x for panel in panels.values() for points in panel.values() for x, _ in points}))
            else:
                axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        within(grid.flat[0], "y", y_label)
        drawn.supxlabel(x_label, fontsize=9.5)
        drawn.supylabel(y_label, fontsize=9.5)
        _legend(drawn, grid.flat[0], names)
        return save(drawn, folder, name, f"{y_label} against {x_label.lower()}")


def intervals(folder: Path, groups: Mapping[str, Mapping[str, Sequence[float]]], x_label: str) -> str:
    """Plot each arm's mean with its 95 % interval and its seeds as small dots; arms that compare stand together."""
    names = list(dict.fromkeys(series for group in groups.values() for series in group))
    lines = sum(len(group) + 1 for group in groups.values())
    with figure("comparison", 7.2, 0.24 * lines + 0.7) as drawn:
        axes = drawn.subplots()
        y, ticks, words = 0.0, [], []
        for title, group in groups.items():
            if title:
                axes.annotate(title, (0, y), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                              va="center", fontsize=9.5, color=MUTED)  # fmt: skip
                y += 1
            for series, values in group.items():
                look, mean = style(names.index(series)), estimate(values)
                colour, (low, high) = look["color"], interval(mean, limits(x_label))
                axes.plot(
                    values, [y + 0.27] * len(values), linestyle="", marker="o", markersize=2.2, color=colour, alpha=0.7,
                    clip_on=False,
                )  # fmt: skip
                axes.errorbar(
                    mean.mean, y, xerr=[[mean.mean - low], [high - mean.mean]], color=colour, marker=look["marker"], markersize=5,
                    capsize=3, clip_on=False,
                )  # fmt: skip
                ticks.append(y)
                words.append(series)
                y += 1
            y += 0.3
        axes.set_yticks(ticks, [plotted(word) for word in words])
        axes.set_ylim(y - 0.5, -0.8)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label)
        within(axes, "x", x_label)
        plain_grid(axes, "x")
        return save(drawn, folder, "comparison", f"{x_label} of every arm with 95 % intervals")


def interval(mean: Estimate, ends: tuple[float, float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean as far as the quantity itself can reach: that of few seeds may go beyond."""
    half = mean.half or 0.0
    return max(mean.mean - half, ends[0]), min(mean.mean + half, ends[1])


def _band(axes: Axes, points: Sequence[Point], index: int, name: str, ends: tuple[float, float]) -> None:
    look = style(index)
    x = [at for at, _ in points]
    means = [estimate(list(values)) for _, values in points]
    axes.plot(x, [mean.mean for mean in means], label=name, clip_on=False, **look, markevery=max(1, len(x) // 12))
    if any(mean.half for mean in means):
        low, high = zip(*(interval(mean, ends) for mean in means), strict=True)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)


def _ticks_at(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(drawn: Figure, first: Axes, names: Sequence[str]) -> None:
    found: dict[str, Artist] = {}
    for line in (line for axes in (first, *drawn.axes) for line in axes.get_lines()):
        if line.get_label() in names:  # not by get_legend_handles_labels, which passes over names that begin with _
            found.setdefault(str(line.get_label()), line)
    if len(names) > 1:
        drawn.legend(list(found.values()), list(found), loc="outside upper left", ncols=min(4, len(names)))
