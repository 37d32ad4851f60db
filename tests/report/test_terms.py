"""Every heading, measure and name that a page uses is explained on it in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.config import METHODS
from mpssl_fed.config.data import PARTITION_OPTIONS
from mpssl_fed.metrics import measure
from mpssl_fed.report import terms
from mpssl_fed.report.run_report import write_run_report
from tests.metrics.test_points import table
from tests.study.runs import write_run

PLAIN = {
    "work", "time", "share", "rounds", "sites asked", "answered", "method", "data", "sites", "final accuracy", "best", "measure",
    "synthetic images", "other real images", "noise", "term", "value", "after round", "site", "finished",
    "metric", "class", "images", "share right",
}  # fmt: skip
"""Headings that say by themselves what they are."""


ALL, FOUR = {"label_fraction": 1.0, "labels_per_class": None}, {"labels_per_class": 4}


class Reader(HTMLParser):
    """Collects the text of headings of tables and facts, and of explained terms."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[tuple[str, str]] = []
        self.heads: list[str] = []
        self.terms: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("dl", "th", "dt", "dd"):
            self.inside.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("dl", "th", "dt", "dd"):
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside or not data.strip():
            return
        tag, of_terms = self.inside[-1][0], ("dl", "terms") in self.inside
        if tag == "dt" and of_terms:
            self.last = data.strip()
        elif tag == "dd" and of_terms:
            self.terms[self.last] = self.terms.get(self.last, "") + data
        elif tag in ("th", "dt"):
            self.heads.append(data.strip())


def read(page: Path) -> Reader:
    """Return what a page's headings and terms are."""
    reader = Reader()
    reader.feed(page.read_text())
    return reader


def unexplained(seen: Reader, plain: Iterable[str]) -> list[str]:
    """Return the headings in which no term of the page stands as a word, and which do not speak for themselves."""
    terms = [re.compile(rf"(?<!\w){re.escape(term)}(?!\w)") for term in seen.terms]
    return [head for head in seen.heads if head not in plain and not any(term.search(head) for term in terms)]


@pytest.mark.parametrize("private", [False, True])
def test_each_heading_of_a_run_is_explained(tmp_path: Path, private: bool) -> None:
    privacy = {"privacy": {"epsilon": 2.0, "public_size": 100, "delta": 1e-4}} if private else {}
    folder = write_run(tmp_path, [0.1, 0.5, 0.6], {"method": {"name": "mp-ssl", "augment": "half-strong"}} | privacy)
    if not private:
        measured = dict.fromkeys(("gap", "coverage", "precision", "pair", "pair_std", "others", "rank", "change"), 0.5)
        noise = dict.fromkeys(("gap", "coverage", "precision"), 0.1)
        found = {"images": 9, "synthetic": measured, "real": measured | {"coverage": 0.9}, "noise": noise}
        (folder / "diagnosis.json").write_text(json.dumps(found))
    else:
        (folder / "evaluation.json").write_text(json.dumps(measure(table(0, 3)).to_json()))
    seen = read(write_run_report(folder))
    assert len(seen.heads) > 15
    assert unexplained(seen, PLAIN) == []
    for name in ("mp-ssl", "half-strong", "iid", "generator", *(("epsilon", "delta", "sigma") if private else ("reach",))):
        assert name in seen.terms, name
    assert ("epsilon" in seen.terms) == ("specificity" in seen.terms) == private
    for words in seen.terms.values():
        assert len(words) < 140
        assert "\n" not in words.strip()


def test_every_method_augmentation_and_split_has_its_line() -> None:
    assert terms.METHODS.keys() == METHODS.keys()
    assert terms.SPLITS.keys() == PARTITION_OPTIONS.keys()


@pytest.mark.parametrize(
    ("config", "begins", "named"),
    [
        ({"method": {"name": "base"}, "data": ALL}, "All of the pool labelled.", False),
        ({"method": {"name": "base"}, "data": FOUR, "federation": {"anchor": {"weight": 1}}}, "4 labelled images per class", True),
        ({"method": {"name": "mp-ssl"}, "data": FOUR}, "4 labelled images per class", True),
    ],
)
def test_a_page_begins_with_what_its_run_uses(config: dict[str, Any], begins: str, named: bool, tmp_path: Path) -> None:
    page = write_run_report(write_run(tmp_path, [0.1, 0.5], config)).read_text()
    assert begins in page
    assert ("Generator glyphs-digits." in page) == named
    assert "No differential privacy." in page


def test_epsilon_is_named_with_its_unit(tmp_path: Path) -> None:
    private = {"privacy": {"epsilon": 2.0, "public_size": 100, "delta": 1e-4, "unit": "subject"}, "data": {"subjects": "parent"}}
    assert "Epsilon 2 per subject (end-to-end)." in write_run_report(write_run(tmp_path, [0.1, 0.5], private)).read_text()
