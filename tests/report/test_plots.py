"""What plots show stays within what a quantity can be, and no marker is cut by the edge of its axes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from mpssl_fed.report import plots, svg
from mpssl_fed.study.report import pareto_plot
from mpssl_fed.study.report import plots as study_plots
from mpssl_fed.study.report.points import Point
from mpssl_fed.study.statistics import Estimate, estimate

SVG = "{http://www.w3.org/2000/svg}"
EDGES = [0.0, 0.0, 100.0, 100.0]
FAR_APART = [[0.0, 100.0], [98.0, 100.0], [100.0, 100.0], [1.0, 2.0]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, still open to questions."""
    kept: list[Figure] = []
    for module in (plots, study_plots, pareto_plot):
        monkeypatch.setattr(module, "save", lambda figure, *args: (kept.append(figure), svg.save(figure, *args))[1])
    return kept


def test_bands_and_intervals_stay_within_a_hundred_percent(tmp_path: Path, drawn: list[Figure]) -> None:
    points = [(n, values) for n, values in enumerate(FAR_APART, 1)]
    study_plots.series_panels(tmp_path, "p", {"": {"base": points}}, "Round", "Test accuracy (%)")
    study_plots.intervals(tmp_path, {"": {str(n): values for n, values in points}}, "Test accuracy (%)")
    point = Point("a", "digits", 1.0, estimate([0.0, 1.0]), True, True)
    pareto_plot.plot(tmp_path, [point, Point("b", "digits", 2.0, estimate([0.9, 1.0]), False, True, on_front=True)])
    bands, bars = 0, 0
    for figure in drawn:
        for axes in figure.axes:
            low, high = axes.get_xlim() if figure is drawn[1] else axes.get_ylim()
            assert 0 <= low < high <= 100
            for collection in axes.collections:
                across = 0 if figure is drawn[1] else 1
                for path in collection.get_paths():
                    ends = path.vertices[:, across]
                    assert ends.min() >= 0
                    assert ends.max() <= 100
                    bands, bars = bands + (figure is drawn[0]), bars + (figure is not drawn[0])
    assert bands == 1
    assert bars >= 4


def test_a_band_of_losses_does_not_fall_below_zero(tmp_path: Path, drawn: list[Figure]) -> None:
    study_plots.series_panels(tmp_path, "p", {"": {"base": [(1, [0.0, 3.0]), (2, [0.1, 0.2])]}}, "Round", "Test loss")
    (axes,) = drawn[0].axes
    (band,) = axes.collections
    assert band.get_paths()[0].vertices[:, 1].min() == 0
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 19  # the interval of two seeds


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.sampled_from(["Accuracy (%)", "Loss"]))
def test_an_interval_holds_its_mean_and_ends_where_the_quantity_does(values: list[float], words: str) -> None:
    ends = svg.limits(words)
    low, high = study_plots.interval(estimate(values), ends)
    mean = estimate(values).mean
    assert ends[0] <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= ends[1]


def test_an_interval_of_one_value_is_that_value() -> None:
    assert study_plots.interval(Estimate(100.0, None, 1), (0.0, 100.0)) == (100.0, 100.0)
    assert study_plots.interval(Estimate(3.0, 5.0, 2), (0.0, math.inf)) == (0.0, 8.0)


def clipped_markers(text: str) -> int:
    """Return how many markers of an SVG stand in a group that is cut to its axes; grid and ticks count as none."""
    found = 0

    def walk(element: ElementTree.Element, cut: bool) -> None:
        nonlocal found
        cut = cut or "clip-path" in element.attrib
        found += cut and element.tag == f"{SVG}use"
        for child in element:
            walk(child, cut)

    walk(ElementTree.fromstring(text), False)
    return found


def all_plots(folder: Path, values: Sequence[float]) -> list[str]:
    """Return every plot that shows accuracies or losses as markers, of these percentages."""
    curve: list[Any] = [(n, value / 100) for n, value in enumerate(values)]
    points = [(n + 1, [value]) for n, value in enumerate(values)]
    means = [Estimate(value / 100, None, 1) for value in values]
    own = [Point(str(n), "d", float(n), mean, bool(n % 2), True, 0.9, True) for n, mean in enumerate(means)]
    return [
        *plots.run_curves(folder, curve, {"test": curve, "training": curve}, "test"),
        study_plots.series_panels(folder, "p", {"": {"base": points}}, "Round", "Accuracy (%)"),
        study_plots.series_panels(folder, "q", {"": {"base": points}}, "Labels", "Loss", log_x=True),
        study_plots.intervals(folder, {"": {"base": list(values)}}, "Accuracy (%)"),
        pareto_plot.plot(folder, own),
    ]


@pytest.mark.parametrize("values", [EDGES, [100.0] * 3, [0.0] * 3], ids=["both edges", "all right", "all wrong"])
def test_no_marker_is_cut(tmp_path: Path, values: list[float]) -> None:
    for text in all_plots(tmp_path, values):
        assert text.count("<use") > 3
        assert clipped_markers(text) == 0


def test_letters_stay_readable_on_a_narrow_screen(tmp_path: Path) -> None:
    """Rendered at its least width, a point of the figure is that many CSS pixels; the smallest letters have 8 points."""
    for text in all_plots(tmp_path, [10.0, 20.0]):
        width, least = (float(number) for number in re.search(r'style="width:([\d.]+)pt;min-width:([\d.]+)pt"', text).groups())  # type: ignore[union-attr]
        natural = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])  # type: ignore[index]
        assert width == pytest.approx(natural)
        assert 8 * least / natural * 96 / 72 >= 8.5
