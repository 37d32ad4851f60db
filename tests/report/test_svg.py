"""Plots as files and as elements of one page."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from mpssl_fed.report import plots
from mpssl_fed.report.svg import INK, SERIES, style
from mpssl_fed.study.report import plots as study_plots

CURVE = [(0, 0.1), (1, 0.5), (2, 0.8)]


def test_two_plots_in_a_page_share_no_id_and_point_at_their_own(tmp_path: Path) -> None:
    first, _ = plots.run_curves(tmp_path, CURVE, {"test": CURVE}, "test")
    second = plots.label_distribution(tmp_path, {"0": [3, 0], "1": [1, 2]}, ["cat", "dog"])
    for name, svg in (("accuracy", first), ("labels", second)):
        ids = re.findall(r'\bid="([^"]+)"', svg)
        used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)
        assert ids
        assert all(one.startswith(f"{name}-") for one in ids)
        assert {a or b for a, b in used} <= set(ids)
        ElementTree.fromstring(svg)
    assert not set(re.findall(r'\bid="([^"]+)"', first)) & set(re.findall(r'\bid="([^"]+)"', second))


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    panels = {"weak": {"base": [(1, [50.0, 52.0]), (4, [70.0, 71.0])]}}
    svgs = [study_plots.series_panels(tmp_path / str(n), "p", panels, "Labels", "Accuracy", log_x=True) for n in range(2)]
    assert svgs[0] == svgs[1]
    assert (tmp_path / "0" / "p.svg").read_bytes() == (tmp_path / "1" / "p.svg").read_bytes()
    assert (tmp_path / "0" / "p.png").read_bytes() == (tmp_path / "1" / "p.png").read_bytes()


def test_the_page_chooses_the_colours_and_the_files_keep_their_own(tmp_path: Path) -> None:
    svg = study_plots.intervals(tmp_path, {"weak": {"base": [1.0, 2.0], "mp-ssl": [3.0]}}, "Accuracy (%)")
    assert INK not in svg
    assert SERIES[0] not in svg
    assert "var(--series-1)" in svg
    assert "var(--series-2)" in svg
    assert SERIES[1] in (tmp_path / "comparison.svg").read_text()
    with Image.open(tmp_path / "comparison.png") as image:
        assert image.size[0] > 800
    assert 'role="img"' in svg
    assert "Accuracy (%) of every arm" in svg


def test_no_two_of_forty_series_look_the_same() -> None:
    looks = [style(n) for n in range(40)]
    assert all(looks[:n].count(look) == 0 for n, look in enumerate(looks))
    for key in ("color", "marker"):
        assert len({look[key] for look in looks[: len(SERIES)]}) == len(SERIES)


def test_counts_stand_in_the_boxes_and_many_sites_are_cut(tmp_path: Path) -> None:
    svg = plots.label_distribution(tmp_path, {"0": [37, 0], "1": [1, 2]}, ["cat", "dog"])
    words = [element.text for element in ElementTree.fromstring(svg).iter() if element.text and element.text.strip()]
    assert {"37", "1", "2", "cat", "dog", "0  (37)", "1  (3)"} <= set(words)
    many = plots.label_distribution(tmp_path, {str(n): [1] * 20 for n in range(45)}, [f"class {n}" for n in range(20)])
    words = [element.text for element in ElementTree.fromstring(many).iter() if element.text]
    assert sum(word.endswith("(20)") for word in words) == plots.MOST_SITES
