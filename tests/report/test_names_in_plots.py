"""Names in plots and tables: no markup, no mathematics, no box for a missing glyph, and no two alike."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from mpssl_fed.report import plots
from mpssl_fed.report.table import TableCell, make_table, to_markdown, to_terminal
from mpssl_fed.study.report import plots as study_plots

ODD = ["$a$ and $b$", "_hidden", "图像", "[bold]x[/bold]", "a\nb", "\u202eab", "50 % $", "\x1b[31m", "🫠"]
IN_PLOTS = ["$a$ and $b$", "_hidden", r"\u56fe\u50cf", "[bold]x[/bold]", r"a\nb", r"\u202eab", "50 % $", r"\x1b[31m", r"\U0001fae0"]


def words(svg: str) -> set[str]:
    return {"".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")}


@pytest.mark.parametrize("sites", [1, 40])
@pytest.mark.parametrize(
    "classes", [ODD, ["x" * 255 + "a", "x" * 255 + "b"], ["图" * 80, "像" * 80], [f"class {i:03d}" for i in range(120)]]
)
def test_label_plots_of_any_names(tmp_path: Path, classes: list[str], sites: int) -> None:
    # warnings are errors in this suite: a missing glyph or a layout without room would be one
    svg = plots.label_distribution(tmp_path, {str(site): [3] * len(classes) for site in range(sites)}, classes)
    shown = [tick for tick in plots.class_ticks(classes) if tick in words(svg)]
    assert len(set(shown)) == len(shown) >= min(len(classes), 40)
    if classes is ODD:
        assert shown == IN_PLOTS


def test_study_plots_of_any_names(tmp_path: Path) -> None:
    names = [name for name in ODD if "\n" not in name]
    points = [(1.0, [50.0, 52.0]), (4.0, [70.0, 71.0])]
    svg = study_plots.series_panels(tmp_path, "p", {"$x$ and $y$": dict.fromkeys(names, points)}, "Labels $", "Accuracy $")
    assert {text for text in IN_PLOTS if text != r"a\nb"} | {"$x$ and $y$"} <= words(svg)
    svg = study_plots.intervals(tmp_path, {"$g$": {name: [1.0, 2.0] for name in names}}, "Accuracy")
    assert {text for text in IN_PLOTS if text != r"a\nb"} | {"$g$"} <= words(svg)


def test_text_that_looks_like_a_plots_own_code_stays(tmp_path: Path) -> None:
    classes = ['id="x', "url(#y", 'href="#z', "#0072b2", "#1b1b1f"]
    assert set(classes) <= words(plots.label_distribution(tmp_path, {"0": [1] * 5}, classes))


def test_tables_show_marks_as_text() -> None:
    table = make_table(["[name]", ":smile:"], [["[bold]x[/bold]", TableCell(":smile:", "better")], ["\x1b[31m", "[/]"]])
    screen = io.StringIO()
    Console(file=screen, width=200).print(to_terminal(table, "[title] :smile:"))
    for text in ("[name]", ":smile:", "[bold]x[/bold]", r"\x1b[31m", "[/]", "[title] :smile:"):
        assert text in screen.getvalue()
    marks = make_table(["a"], [["x|y"], ["<b>"], ["[a](b)"], ["*a*"], ["`c`"], ["< 0.001"], ["two\nlines"]])
    lines = to_markdown(marks).splitlines()[2:]
    assert lines == [r"| x\|y |", r"| \<b> |", r"| \[a](b) |", r"| \*a\* |", r"| \`c\` |", "| < 0.001 |", "| two lines |"]
