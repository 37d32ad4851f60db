"""The page of a run and of a study, opened in a real browser where there is one."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.method import METHOD_VERSION
from mpssl_fed.study.folder import STUDY_FILE, Outcome, read_outcome
from mpssl_fed.study.grid import load_study
from mpssl_fed.study.measured import failed_row, row_of_run
from mpssl_fed.study.report.page import write_report, write_study_report
from mpssl_fed.study.result_table import read_csv
from mpssl_fed.study.results import write_result
from tests.report.test_terms import PLAIN, read, unexplained
from tests.study.browser import Browser, find_browser
from tests.study.runs import plan_of, write_run

VERSION = METHOD_VERSION


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two methods, two label budgets and three seeds, one cell of which failed, as its files."""
    output = tmp_path_factory.mktemp("study")
    plan = plan_of(
        output,
        title="Does <it> help?",
        grid={"method.name": ["base", "vic-gssl"], "data.labels_per_class": [1, 4], "method.augment": ["weak"]},
        baseline={"method.name": "base"},
        target_accuracy=0.5,
        show={"method.name": "vic-gssl", "data.labels_per_class": 4},
    )
    (output / STUDY_FILE).write_text(plan.to_yaml())
    for number, cell in enumerate(plan.cells):
        gain = 0.1 * (cell.settings["method.name"] == "vic-gssl")
        base = 0.4 + 0.05 * cell.settings["data.labels_per_class"] + 0.01 * cell.seed + 0.001 * number
        folder = write_run(output / "cells" / cell.id, [0.1, base, base + gain], {"method": {"name": cell.settings["method.name"]}})
        if gain:
            measured = dict.fromkeys(("gap", "coverage", "precision", "pair", "pair_std", "others", "rank", "change"), 0.5)
            (folder / "diagnosis.json").write_text(json.dumps({"images": 9, "synthetic": measured, "real": measured}))
        write_result(folder / "result.json", row_of_run(cell, folder, VERSION, cpu_seconds=1.0, peak_memory_mb=400.0))
    failed = plan.cells[-1]
    (output / "cells" / failed.id / "result.json").unlink()
    write_result(output / "logs" / f"{failed.id}.failed.json", failed_row(failed, VERSION, "MemoryError: <1 TB>"))
    return output


def text_of(page: Path) -> str:
    """Return the text of a page without mark-up, style and SVG."""

    class Reader(HTMLParser):
        hidden = 0
        words: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.hidden += tag in ("style", "svg")

        def handle_endtag(self, tag: str) -> None:
            self.hidden -= tag in ("style", "svg")

        def handle_data(self, data: str) -> None:
            if not self.hidden and data.strip():
                self.words.append(data.strip())

    reader = Reader()
    reader.words = []
    reader.feed(page.read_text())
    return "\n".join(reader.words)


def test_run_report_tells_the_run(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path, [0.1, 0.5, 0.876], {"method": {"name": "mp-ssl", "augment": "half-strong"}}))
    text = text_of(page)
    told = [
        "mp-ssl, half-strong augmentation on mnist-5k",
        "87.6 %",
        "2 of 2",
        "1 reply is not in the result: 1 non-finite",
        "generator: random latents and classes",
        "site 2",
        "lmo_every: 5",
        '"torch": "2"',
        "training at the sites",
        "1 non-finite",
    ]
    for words in told:
        assert words in text, words
    html = page.read_text()
    assert html.count('src="data:image/png;base64,') == 4
    assert html.count("<svg") == 3
    names = ("accuracy", "loss", "labels")
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}


def test_a_page_holds_no_address_outside_itself(tmp_path: Path, study: Path) -> None:
    for page in (write_report(write_run(tmp_path, [0.1, 0.5])), write_report(study)):
        links = re.findall(r'(?:src|href)="([^"]*)"', page.read_text())
        assert all(link.startswith(("data:", "#", "cells/")) for link in links if not re.fullmatch(r"#?[\w-]+", link)), links
        assert not re.search(r"@import|url\((?!#)", page.read_text())
        assert "<script" not in page.read_text()


def test_a_run_in_progress_and_one_without_sites_have_a_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [0.1, 0.5], {"federation": {"sites": 3, "rounds": 9}, "method": {"name": "base"}})
    (folder / "labels.json").unlink()
    (folder / "manifest.json").unlink()
    for picture in [*folder.glob("sites/*/samples.png"), folder / "generator.png"]:
        picture.unlink()
    text = text_of(write_report(folder))
    assert "This run stopped after 1 of 9 rounds." in text
    assert "This method uses no generator." in text
    assert "This run directory holds no label counts." in text


def test_study_report_compares(study: Path) -> None:
    text = text_of(write_report(study))
    assert "Does <it> help?" in text
    assert "11 of 12" in text
    assert "1 cell failed" in text
    assert "MemoryError: <1 TB>" in text
    assert "within noise (n < 3)" in text  # the arm that lost a seed
    assert "better" in text
    markdown = (study / "results.md").read_text()
    gain = next(line for line in markdown.splitlines() if line.startswith("| vic-gssl | 1 |"))
    # base, seeds 0 1 2 = cells 0 4 8: .45 .464 .478; vic-gssl = cells 2 6 10: .552 .566 .580, so 10.2 points each
    assert gain.split("|")[4:7] == [" 56.6 ± 3.5 ", " 3 ", " +10.2 ± 0.0 "]
    names = {file.name for file in (study / "plots").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("comparison", "labels-per-class", "learning") for kind in ("svg", "png")} | {
        "run"
    }


def test_each_heading_of_a_study_is_explained(study: Path) -> None:
    seen = read(write_report(study))
    plain = {*PLAIN, "cells", "arms", "seeds", "evaluated on", "best mean", "time in runs", "status", "s", "what went wrong"}
    assert len(seen.heads) > 40
    assert unexplained(seen, plain) == []
    assert seen.terms["labels per class"].startswith("Labelled images of each class")


def test_a_cost_table_by_hand(study: Path) -> None:
    write_report(study)
    line = next(line for line in (study / "results.md").read_text().splitlines() if "| base · labels per class 1 |" in line)
    # 3 sites in round 1 and 2 of 3 in round 2 = 5 answers x 2 steps; 3.75 s of training and generating, 192 images, 1 s of CPU
    assert [cell.strip() for cell in line.split("|")[2:9]] == ["375.0", "75.0", "100.0", "19.2", "400", "4.5", "– (0 of 3)"]


def test_rebuilding_changes_nothing(study: Path) -> None:
    first = {file: file.read_bytes() for file in (write_report(study), study / "results.csv", study / "results.md")}
    write_report(study)
    assert first == {file: file.read_bytes() for file in first}


def test_a_report_from_the_table_alone_has_all_but_the_runs(study: Path, tmp_path: Path) -> None:
    """``--from``: what a committed table rebuilds elsewhere is what the study's own report says."""
    write_report(study)
    plan = load_study(study / STUDY_FILE)
    rows = read_csv(study / "results.csv", plan.cells, VERSION)
    here = Outcome(plan, tmp_path, rows | {row.config_sha256: row for row in read_outcome(plan, study).failed})
    (tmp_path / STUDY_FILE).write_bytes((study / STUDY_FILE).read_bytes())
    text = text_of(write_study_report(here))
    for file in ("results.csv", "results.md"):
        assert (tmp_path / file).read_bytes() == (study / file).read_bytes(), file
    assert {file.name for file in (tmp_path / "plots").glob("*.svg")} == {file.name for file in (study / "plots").glob("*.svg")}
    for heading in ("Learning curves", "Against the number of labels", "Diagnosis", "Labels and the gain", "s to 50 %"):
        assert heading in text, heading


def test_a_study_of_nothing_yet_has_a_report(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid={"method.name": ["base"]}, show={"method.name": "base"})
    (tmp_path / STUDY_FILE).write_text(plan.to_yaml())
    text = text_of(write_study_report(read_outcome(plan, tmp_path)))
    assert "3 cells not run yet" in text


def test_neither_run_nor_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a run .* nor a study"):
        write_report(tmp_path)


def test_reports_in_a_browser(tmp_path: Path, study: Path) -> None:
    browser = find_browser()
    if browser is None:
        pytest.skip("needs Debian's package chromium")
    pages = (write_report(write_run(tmp_path, [0.1, 0.5, 0.7])), write_report(study))
    with Browser(browser) as tab:
        for page, dark in itertools.product(pages, (False, True)):
            tab.open(page, dark)
            assert tab.complaints() == []
            assert tab.requests() == [page.as_uri()]
            shown = tab.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0 && i.clientWidth > 50)")
            assert shown == [True] * 4  # the generator's and three sites'
            drawn = tab.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().height > 60)")
            assert drawn
            assert all(drawn)
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert tab.evaluate("getComputedStyle(document.body).fontFamily.endsWith('sans-serif')")
            ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
            assert len(ids) == len(set(ids))
            assert tab.evaluate("getComputedStyle(document.body).backgroundColor === 'rgb(22, 23, 26)'") == dark
        tab.evaluate("console.error('seen'); document.body.append(Object.assign(new Image(), {src: 'no.png'}))")
        tab.evaluate("new Promise(done => setTimeout(done, 300))")
        assert any("seen" in words for words in tab.complaints())  # so that silence above means something
        assert any(url.endswith("no.png") for url in tab.requests())
