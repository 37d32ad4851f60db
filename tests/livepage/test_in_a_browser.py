"""The live page in a real browser: a run that really goes on, at 400 and 1200 px, light and dark; and a site's own page."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.livepage.conftest import Watch
from tests.patience import wait_for
from tests.study.browser import Browser, browser_here
from tests.study.runs import write_run

SIMULATE = [sys.executable, "-m", "mpssl_fed.cli", "simulate", "demo", "method.name=base", "model.name=pixels"]
FEW = ["federation.sites=2", "federation.rounds=3", "federation.local_steps=2", "data.test_limit=200"]


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    """A page of Chromium."""
    yield from browser_here()


@pytest.fixture(autouse=True)
def leave(tab: Browser, watch: Watch) -> Iterator[None]:
    """Leave the page before its server ends: else it asks on in the next test."""
    yield
    tab.visit("about:blank")


def words(tab: Browser) -> str:
    return str(tab.evaluate("document.body.innerText"))


def test_a_run_that_goes_on_is_followed_to_its_end(tab: Browser, watch: Watch, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*SIMULATE, *FEW, "--output", str(run)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        wait_for(lambda: (run / "config.yaml").is_file() or process.poll() is not None, "the run's start")
        address = watch(run)
        tab.visit(address)
        wait_for(lambda: "Finished after 3 rounds." in words(tab), "the end on the page")
        assert process.wait() == 0
    assert tab.complaints() == []
    assert {url.rpartition("/")[0] + "/" for url in tab.requests()} == {address}
    shown = tab.evaluate("[...document.querySelectorAll('tbody tr')].map(r => r.cells[0].innerText)")
    assert shown == ["3", "2", "1", "0"]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"{100 * last['test_accuracy']:.1f} %" in words(tab)
    points = tab.evaluate("document.querySelector('polyline').points.numberOfItems")
    assert points == 4


def test_the_page_fits_and_a_new_round_moves_nothing_that_was_scrolled(tab: Browser, watch: Watch, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [0.1, 0.2, 0.5, 0.6])
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    address = watch(run)
    for width, dark in itertools.product((1200, 400), (False, True)):
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        tab.visit(address, dark)
        wait_for(lambda: "Rounds" in words(tab), "the first look")
        assert tab.complaints() == []
        assert tab.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) <= innerWidth")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor === 'rgb(22, 23, 26)'") == dark
        letters = """[...document.querySelectorAll('svg text')].map(t => parseFloat(getComputedStyle(t).fontSize)
            * t.getScreenCTM().a)"""
        assert min(tab.evaluate(letters)) >= 8.5
        colour = tab.evaluate("getComputedStyle(document.querySelector('polyline')).stroke")
        assert colour == ("rgb(85, 174, 232)" if dark else "rgb(0, 114, 178)")
    tab.evaluate("document.querySelector('.wide').scrollLeft = 40")
    before = tab.evaluate("document.querySelector('.wide').scrollLeft")
    assert before > 0
    (run / "metrics.jsonl").write_text("".join(lines))
    wait_for(lambda: "3 of 3" in words(tab), "the new round")
    assert tab.evaluate("document.querySelector('.wide').scrollLeft") == before


def test_what_a_run_says_is_text_and_no_page(tab: Browser, watch: Watch, tmp_path: Path) -> None:
    run = write_run(tmp_path / "<img src=x onerror=alert(1)>", [0.1, 0.2])
    manifest = json.loads((run / "manifest.json").read_text())
    evil = "<script>document.title='taken'</script><img src=https://example.org/x.png>"
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "failed", "error": evil}))
    address = watch(run)
    tab.visit(address)
    wait_for(lambda: "Failed after" in words(tab), "the first look")
    assert "<script>" in words(tab)
    assert tab.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert tab.complaints() == []
    assert all(url.startswith(address) for url in tab.requests())


def test_a_page_whose_server_has_ended_says_that(tab: Browser, watch: Watch, tmp_path: Path) -> None:
    tab.visit(watch(write_run(tmp_path / "run", [0.1, 0.2])))
    wait_for(lambda: "Rounds" in words(tab), "the first look")
    watch.end()
    wait_for(lambda: "mpssl-fed watch has ended" in words(tab), "the word of it")
