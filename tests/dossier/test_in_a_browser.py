"""A dossier in a real browser: at 400 and 1200 px, light and dark, and as PDF."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed.dossier.subject import Subject
from mpssl_fed.dossier.write import write_dossier
from tests.dossier.pages import fixtures
from tests.report.test_in_a_browser import SMALLEST_LETTERS, TOUCHING
from tests.study.browser import Browser, browser_here


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dossier of a private run with an audit."""
    return write_dossier(Subject(fixtures(tmp_path_factory.mktemp("browser") / "old") / "run")).page


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    yield from browser_here()


def test_it_fits_loads_nothing_and_complains_of_nothing(tab: Browser, page: Path) -> None:
    for width, dark in itertools.product((400, 1200), (False, True)):
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        tab.open(page, dark)
        assert tab.complaints() == []
        assert tab.requests() == [page.as_uri()]
        wide = tab.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
        assert max(wide[:2]) <= wide[2]
        cut = "[...document.querySelectorAll('.wide:has(table)')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert tab.evaluate(cut) == 0  # no table scrolls, so that none is cut on paper
        paper = tab.evaluate("getComputedStyle(document.querySelector('.dataflow .paper')).fill")
        assert paper == ("rgb(22, 23, 26)" if dark else "rgb(255, 255, 255)")
        ink = tab.evaluate("getComputedStyle(document.querySelector('.dataflow text')).fill")
        assert ink == ("rgb(232, 232, 234)" if dark else "rgb(22, 24, 29)")
        of_the_plot = "[...document.querySelectorAll('figure svg:not(.dataflow) text')]"
        size = "(t => parseFloat(getComputedStyle(t).fontSize))"
        letters = f"{of_the_plot}.map(t => {size}(t) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))"
        assert min(tab.evaluate(letters)) >= SMALLEST_LETTERS
        assert tab.evaluate(f"{of_the_plot}.filter(t => t.textContent.includes('$')).length") == 0
        small = f"Math.min(...[...document.querySelectorAll('main *')].filter(e => e.innerText).map({size}))"
        assert tab.evaluate(small) >= 11
        drawing = TOUCHING.replace("document.query", "document.querySelector('.dataflow').query")
        assert tab.evaluate(drawing) == []


def test_no_backtick_is_left_in_a_heading(tab: Browser, page: Path) -> None:
    tab.open(page)
    heads = tab.evaluate("[...document.querySelectorAll('th, h2')].map(e => e.innerText)")
    assert "learns, under end-to-end" in heads
    assert not any("`" in head for head in heads)


def test_it_is_printed(tab: Browser, page: Path) -> None:
    tab.open(page)
    pdf = base64.b64decode(tab.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"])
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") + pdf.count(b"/Type /Page/") > 3
    assert len(pdf) > 50_000
