"""Every page and the drawing of the data flow in a real browser: at 400 and 1200 px, light and dark."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed.audit.report import write_audit
from mpssl_fed.deployment.owner_report import Owned, write_site_report
from mpssl_fed.federation import parts
from mpssl_fed.federation.server.deployed_run import with_task
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.privacy.policy import load_policy
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.study.folder import STUDY_FILE, read_outcome
from mpssl_fed.study.measured import row_of_run
from mpssl_fed.study.report.page import write_report
from mpssl_fed.study.results import write_result
from tests.audit.test_words import facts, sections
from tests.federation.test_privacy import private_config
from tests.study.browser import Browser, browser_here
from tests.study.runs import plan_of, write_run

DRAWING = Path(__file__).parents[2] / "docs" / "dataflow.svg"
SMALLEST_LETTERS = 8.5
"""CSS pixels, of any text in a plot."""


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    """A page of Chromium."""
    yield from browser_here()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind: a run at chance, a private deployment, a study, an audit, a site's own report."""
    folder = tmp_path_factory.mktemp("pages")
    run = write_run(folder / "run", [0.1, 0.11, 0.1], {"method": {"name": "mp-ssl"}})
    measured = dict.fromkeys(("gap", "coverage", "precision", "pair", "pair_std", "others", "rank", "change"), 0.5)
    (run / "diagnosis.json").write_text(json.dumps({"images": 9, "synthetic": measured, "real": measured, "noise": measured}))
    private = {"privacy": {"epsilon": 2.0, "public_size": 100, "delta": 1e-4}, "federation": {"backend": "deployment"}}
    deployed = write_run(folder / "deployed", [0.1, 0.5, 1.0], private)
    (folder / "policy.yaml").write_text("{dataset: chest, public_size: 200, max_epsilon: 3, delta: 1.0e-5}")
    config, policy = with_task(private_config()), load_policy(folder / "policy.yaml")
    owned = Owned(folder, 0, parts.labelled(config, 0), policy, folder / "none.sqlite", ("a warning that its owner accepted",))
    return {
        "run": write_run_report(run),
        "deployed": write_run_report(deployed),
        "study": write_report(_study(folder / "study")),
        "audit": write_audit(folder / "audit", facts("off"), sections(0.97, 0.1, "off")),
        "site": write_site_report(owned, config, "run"),
    }


def _study(folder: Path) -> Path:
    grid = {"method.name": ["base", "vic-gssl"], "data.labels_per_class": [1, 4], "method.augment": ["weak", "half-strong"]}
    asked = [{"arm": {"method.name": "vic-gssl"}, "against": {"method.name": "base", "method.augment": "weak"}}]
    primary = [{**asked[0], "where": {"data.labels_per_class": 1}}]
    baselines = [{"method.name": "base"}, {"method.name": "vic-gssl", "method.augment": "weak"}]
    fields = {"baseline": baselines, "compare": asked, "primary": primary, "untuned": "They are a test's."}
    plan = plan_of(folder, grid=grid, show="best", target_accuracy=0.5, **fields)
    (folder / STUDY_FILE).write_text(plan.to_yaml())
    for number, cell in enumerate(plan.cells):
        name = cell.settings["method.name"]
        accuracy = [1.0, 1.0] if name == "base" and cell.settings["data.labels_per_class"] == 4 else [0.1, 0.3 + 0.02 * number]
        run = write_run(folder / "cells" / cell.id, accuracy, {"method": {"name": name}})
        write_result(run / "result.json", row_of_run(cell, run, METHOD_VERSION, cpu_seconds=1.0, peak_memory_mb=400.0))
    read_outcome(plan, folder)
    return folder


@pytest.mark.parametrize("kind", ["run", "deployed", "study", "audit", "site"])
def test_a_page_fits_loads_nothing_and_complains_of_nothing(tab: Browser, pages: dict[str, Path], kind: str) -> None:
    page = pages[kind]
    for width, dark in itertools.product((400, 1200), (False, True)):
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        tab.open(page, dark)
        assert tab.complaints() == []
        assert tab.requests() == [page.as_uri()]
        wide = tab.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
        assert max(wide[:2]) <= wide[2], f"{kind} at {width} px is {wide}"
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor === 'rgb(22, 23, 26)'") == dark
        beyond = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.wide, pre, svg') || e.matches('.wide'))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
        assert tab.evaluate(beyond) == []
        if kind == "audit" and width == 1200:  # long words wrap before a table is cut off
            assert tab.evaluate("[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth + 1)")
        tables = tab.evaluate("[...document.querySelectorAll('table')].map(t => !!t.closest('.wide'))")
        assert all(tables)
        letters = """[...document.querySelectorAll('figure svg text')].map(t => parseFloat(getComputedStyle(t).fontSize)
            * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))"""
        sizes = tab.evaluate(letters)
        assert min(sizes, default=99) >= SMALLEST_LETTERS
        assert bool(sizes) == (kind in ("run", "deployed", "study"))


def test_the_first_thing_on_each_page_is_what_was_found(tab: Browser, pages: dict[str, Path]) -> None:
    begins = {
        "run": "After 2 of 2 rounds the model is right on",
        "deployed": "After 2 of 5 rounds the model is right on 100.0 %",
        "study": "Of 2 primary comparisons",
        "audit": "This run claims no privacy",
        "site": "Data set “chest”: epsilon 0",
    }
    for kind, words in begins.items():
        tab.open(pages[kind])
        assert tab.evaluate("document.querySelector('main').innerText.trim()").startswith(words), kind


def test_wide_tables_and_plots_scroll_inside_themselves(tab: Browser, pages: dict[str, Path]) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    tab.open(pages["study"])
    scrolled = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert tab.evaluate(f"{scrolled}.length") > 3
    assert tab.evaluate(f"{scrolled}.every(e => getComputedStyle(e).overflowX === 'auto' && e.tabIndex === 0)")
    assert tab.evaluate(f"{scrolled}.map(e => (e.scrollLeft = 9999, e.scrollLeft > 0)).every(moved => moved)")


def test_no_words_of_the_drawing_touch_each_other_or_leave_their_box(tab: Browser) -> None:
    for width, dark in itertools.product((400, 1200), (False, True)):
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        tab.open(DRAWING, dark)
        assert tab.complaints() == []
        assert tab.requests() == [DRAWING.as_uri()]
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        paper = tab.evaluate("getComputedStyle(document.querySelector('.paper')).fill")
        assert paper == ("rgb(22, 23, 26)" if dark else "rgb(255, 255, 255)")
        assert tab.evaluate(TOUCHING) == []
        assert tab.evaluate(CROSSED) == []
        assert tab.evaluate("Math.min(...[...document.querySelectorAll('text')].map(t => t.getBoundingClientRect().height))") > 10


TOUCHING = """(() => {
    const box = e => e.getBBox(), texts = [...document.querySelectorAll('text')], page = box(document.querySelector('.paper'));
    const meet = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
    const holds = (a, b) => a.x <= b.x && a.y <= b.y && a.x + a.width >= b.x + b.width && a.y + a.height >= b.y + b.height;
    const found = [];
    texts.forEach((one, n) => texts.slice(n + 1).forEach(other => {
        if (meet(box(one), box(other))) found.push(one.textContent + ' | ' + other.textContent);
    }));
    const boxes = [...document.querySelectorAll('rect:not(.paper)')];
    texts.forEach(text => {
        if (!holds(page, box(text))) found.push(text.textContent + ' leaves the page');
        boxes.filter(rect => meet(box(rect), box(text)) && !holds(box(rect), box(text)))
            .forEach(() => found.push(text.textContent + ' crosses the edge of a box'));
    });
    return found;
})()"""
"""Pairs of words that overlap, and words that a box's or the page's edge runs through."""

CROSSED = """(() => {
    const found = [], texts = [...document.querySelectorAll('text')];
    document.querySelectorAll('.line path').forEach(path => {
        for (let at = 0; at <= path.getTotalLength(); at += 1) {
            const p = path.getPointAtLength(at);
            texts.forEach(text => {
                const b = text.getBBox();
                if (p.x > b.x && p.x < b.x + b.width && p.y > b.y && p.y < b.y + b.height) found.push(text.textContent);
            });
        }
    });
    return [...new Set(found)];
})()"""
"""Words that an arrow runs through."""
