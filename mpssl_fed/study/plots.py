"""The plots of the reports. Each function writes NAME.svg and NAME.png into a folder and returns the SVG for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from mpssl_fed.report.svg import MUTED, figure, plain_grid, save, style
from mpssl_fed.study.statistics import estimate

Point = tuple[float, Sequence[float]]
"""(x, one value a seed)."""
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
                _band(axes, points, names.index(series), series)
            axes.set_title(title)
            if log_x:
                _ticks_at(axes, sorted({x for panel in panels.values() for points in panel.values() for x, _ in points}))
            else:
                axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        low, high = grid.flat[0].get_ylim()  # an interval may reach beyond what an accuracy or a loss can be; the axis should not
        grid.flat[0].set_ylim(max(low, 0.0), min(high, 102.0) if "%" in y_label else high)
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
                colour = look["color"]
                axes.plot(values, [y + 0.27] * len(values), linestyle="", marker="o", markersize=2.2, color=colour, alpha=0.7)
                axes.errorbar(mean.mean, y, xerr=mean.half or 0, color=colour, marker=look["marker"], markersize=5, capsize=3)
                ticks.append(y)
                words.append(series)
                y += 1
            y += 0.3
        axes.set_yticks(ticks, words)
        axes.set_ylim(y - 0.5, -0.8)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label)
        if "%" in x_label:  # an interval of few seeds may reach beyond what an accuracy can be; the axis should not
            low, high = axes.get_xlim()
            axes.set_xlim(max(low, 0.0), min(high, 102.0))
        plain_grid(axes, "x")
        return save(drawn, folder, "comparison", f"{x_label} of every arm with 95 % intervals")


def _band(axes: Axes, points: Sequence[Point], index: int, name: str) -> None:
    look = style(index)
    x = [at for at, _ in points]
    means = [estimate(list(values)) for _, values in points]
    axes.plot(x, [mean.mean for mean in means], label=name, **look, markevery=max(1, len(x) // 12))
    half = [mean.half or 0.0 for mean in means]
    if any(half):
        low, high = ([m.mean - h for m, h in zip(means, half, strict=True)], [m.mean + h for m, h in zip(means, half, strict=True)])
        axes.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)


def _ticks_at(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(drawn: Figure, first: Axes, names: Sequence[str]) -> None:
    handles, labels = first.get_legend_handles_labels()
    for axes in drawn.axes[1:]:
        more, words = axes.get_legend_handles_labels()
        for handle, word in zip(more, words, strict=True):
            if word not in labels:
                handles.append(handle)
                labels.append(word)
    if len(names) > 1:
        drawn.legend(handles, labels, loc="outside upper left", ncols=min(4, len(names)))
