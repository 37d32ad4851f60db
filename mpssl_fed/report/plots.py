"""The plots of one run. Each function writes NAME.svg and NAME.png into a folder and returns the SVG for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from mpssl_fed.report.svg import INK, SERIES, figure, save, style

MOST_SITES = 40


NUMBERS_UP_TO = 16  # classes or sites beyond which the counts no longer fit into their boxes


def run_curves(
    folder: Path, accuracy: Sequence[tuple[int, float]], losses: Mapping[str, Sequence[tuple[int, float]]], held_out: str
) -> str:
    """Plot one run: accuracy on the held-out images (``held_out``: test or validation) in percent and the losses, by round."""
    with figure("curves", 8.4, 2.9) as drawn:
        left, right = drawn.subplots(1, 2)
        left.plot([r for r, _ in accuracy], [100 * value for _, value in accuracy], **style(0))
        left.set(xlabel="Round", title=f"{held_out.capitalize()} accuracy (%)")
        for index, (name, values) in enumerate(losses.items()):
            right.plot([r for r, _ in values], [value for _, value in values], label=name, **style(index))
        right.set(xlabel="Round", title="Loss")
        right.set_ylim(bottom=0)
        if len(losses) > 1:
            right.legend()
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return save(drawn, folder, "curves", f"{held_out.capitalize()} accuracy and loss by round")


def label_distribution(folder: Path, counts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> str:
    """Plot how many labelled images of each class each site holds: one row a site, at most MOST_SITES of them."""
    sites = list(counts)[:MOST_SITES]
    highest = max((count for site in sites for count in counts[site]), default=0) or 1
    numbers = len(classes) <= NUMBERS_UP_TO
    with figure("labels", min(9.0, 1.6 + 0.5 * len(classes)), 0.95 + 0.27 * len(sites)) as drawn:
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
        long = max((len(name) for name in classes), default=0) > 4
        axes.set_xticks(shown, [classes[index] for index in shown], rotation=60 if long else 0, ha="right" if long else "center")
        axes.tick_params(length=0)
        axes.set(xlabel="Class", ylabel="Site (images)")
        return save(drawn, folder, "labels", "Labelled images by site and class")
