"""The plots of one run. Each function writes NAME.svg and NAME.png into a folder and returns the SVG for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mpssl_fed.metrics import Bin
from mpssl_fed.names import distinct, width
from mpssl_fed.report.svg import INK, MUTED, SERIES, figure, plotted, save, style, within

MOST_SITES = 40


LONGEST, INCHES_A_LETTER = 24, 0.07
NUMBERS_UP_TO = 16  # classes or sites beyond which the counts no longer fit into their boxes


def run_curves(
    folder: Path, accuracy: Sequence[tuple[int, float]], losses: Mapping[str, Sequence[tuple[int, float]]], held_out: str
) -> list[str]:
    """Plot one run: accuracy on the held-out images (``held_out``: test or validation) in percent, and the losses, by round."""
    percent = [(number, 100 * value) for number, value in accuracy]
    return [
        _curves(folder, "accuracy", {held_out: percent}, f"{held_out.capitalize()} accuracy (%)"),
        _curves(folder, "loss", losses, f"{next(iter(losses)).capitalize()} loss" if len(losses) == 1 else "Loss"),
    ]


def _curves(folder: Path, name: str, series: Mapping[str, Sequence[tuple[int, float]]], title: str) -> str:
    with figure(name, 4.2, 2.9) as drawn:
        axes = drawn.subplots()
        for index, (label, values) in enumerate(series.items()):
            axes.plot([r for r, _ in values], [value for _, value in values], label=label, clip_on=False, **style(index))
        axes.set(xlabel="Round", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.1)
        if name == "loss":
            axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1], 1e-9))
        within(axes, "y", title)
        if len(series) > 1:
            axes.legend()
        return save(drawn, folder, name, f"{title} by round")


def reliability(folder: Path, bins: Sequence[Bin]) -> str:
    """Plot the share that is right against the mean probability of each bin; a dot's area is its share of the images."""
    total = sum(one.images for one in bins)
    with figure("reliability", 3.6, 3.2) as drawn:
        axes = drawn.subplots()
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=":", label="calibrated")
        points = [(100 * one.confidence, 100 * one.accuracy) for one in bins]
        axes.plot([x for x, _ in points], [y for _, y in points], color=SERIES[0], linewidth=1.2)
        areas = [12 + 200 * one.images / total for one in bins]
        xs, ys = zip(*points, strict=True)
        axes.scatter(xs, ys, s=areas, color=SERIES[0], alpha=0.75, linewidths=0, clip_on=False, label="this model", zorder=3)
        axes.set(xlabel="Mean probability (%)", ylabel="Share right (%)", title="Reliability", xlim=(0, 100), ylim=(0, 100))
        axes.set_aspect("equal")
        axes.legend(loc="best")  # where the line leaves room
        return save(drawn, folder, "reliability", "Share of images named right, by the probability of the named class")


def class_ticks(classes: Sequence[str]) -> list[str]:
    """Return the names of classes as the plot shows them: no longer than LONGEST letters, no two alike."""
    return distinct(classes, LONGEST, plotted)


def label_distribution(folder: Path, counts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> str:
    """Plot how many labelled images of each class each site holds: one row a site, at most MOST_SITES of them."""
    sites = list(counts)[:MOST_SITES]
    highest = max((count for site in sites for count in counts[site]), default=0) or 1
    numbers, names = len(classes) <= NUMBERS_UP_TO, class_ticks(classes)
    longest = max((width(name) for name in names), default=0)
    long = longest > 4
    below = INCHES_A_LETTER * longest if long else 0.0  # room for slanted names
    with figure("labels", min(9.0, 1.6 + below / 2 + 0.5 * len(classes)), 0.95 + below + 0.27 * len(sites)) as drawn:
        axes = drawn.subplots()
        axes.grid(False)
        held = [(row, column, n) for row, site in enumerate(sites) for column, n in enumerate(counts[site]) if n]
        boxes = [Rectangle((column - 0.5, row - 0.5), 1, 1) for row, column, _ in held]
        shades = [to_rgba(SERIES[0], 0.7 * n / highest) for _, _, n in held]
        axes.add_collection(PatchCollection(boxes, facecolors=shades, linewidths=0))
        for row, column, n in held if numbers else ():
            axes.text(column, row, str(n), ha="center", va="center", color=INK, fontsize=8.5)
        axes.set_xlim(-0.5, len(classes) - 0.5)
        axes.set_ylim(len(sites) - 0.5, -0.5)
        axes.set_yticks(range(len(sites)), [f"{site}  ({sum(counts[site])})" for site in sites])
        step = max(1, math.ceil(len(classes) / 40))
        shown = range(0, len(classes), step)
        axes.set_xticks(shown, [names[index] for index in shown], rotation=60 if long else 0, ha="right" if long else "center")
        axes.tick_params(length=0)
        axes.set(xlabel="Class", ylabel="Site (images)")
        return save(drawn, folder, "labels", "Labelled images by site and class")
