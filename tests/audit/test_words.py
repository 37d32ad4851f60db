"""An audit's page begins with a verdict in plain words, and explains each of its numbers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mpssl_fed.audit import words
from mpssl_fed.audit.attack import Estimate, success
from mpssl_fed.audit.inversion import Inversion
from mpssl_fed.audit.memorisation import MemorisationAudit
from mpssl_fed.audit.report import Line, Section, picture, verdicts, write_audit
from tests.report.test_terms import read, unexplained

IMAGE = torch.zeros(1, 8, 8)


def inverted(similarity: float) -> Inversion:
    """Return an attempt of this success."""
    return Inversion(IMAGE, similarity, 0.9)


def sections(plain: float, private: float, scope: str, contradicts: bool = False) -> list[Section]:
    """Return the sections of an audit that rebuilt images this well."""
    name, measured = "one release of the gradient, sigma 3.05, whole data set", "noise std 1.0014 of what is claimed"
    line = Line(name, 3.0, 4.0 if contradicts else 1.0, measured, contradicts)
    found = {"plain": inverted(plain), "private, sigma 2": inverted(private)}
    verdict = words.of_inversion(scope, inverted(plain), inverted(private))
    lines = [Line(f"gradient inversion, {name}", None, None, "") for name in found]
    table, pictures = words.inversion_table(found), {"the image, rebuilt": picture([IMAGE, IMAGE])}
    return [
        Section("mechanism", [line], "a note", [{"trials": 5}]),
        Section("inversion", lines, "a note", {}, pictures, verdict, table),
    ]


def facts(scope: str) -> dict[str, Any]:
    """Return what an audit says of its run."""
    return {
        "date": "2026-11-28 10:00 UTC",
        "data": "chest <x-rays>",
        "run": "ab12",
        "site": 3,
        "scope": scope,
        "claimed epsilon": "3",
    }


@pytest.mark.parametrize(
    ("plain", "private", "scope", "contradicts", "first", "alarming"),
    [
        (0.97, 0.03, "off", False, "This run claims no privacy", True),
        (0.97, 0.03, "end-to-end", False, "No test contradicts the claimed epsilon", False),
        (0.97, 0.60, "end-to-end", False, "An image of this site was rebuilt from a private update", True),
        (0.10, 0.03, "end-to-end", True, "The claimed epsilon does not hold: 1 of 1 tests contradict it", True),
    ],
)
def test_what_an_attacker_can_do_comes_first(
    plain: float, private: float, scope: str, contradicts: bool, first: str, alarming: bool
) -> None:
    found = verdicts(facts(scope), sections(plain, private, scope, contradicts))
    assert found[0].words.startswith(first)
    assert found[0].alarming is alarming
    flags = [verdict.alarming for verdict in found]
    assert flags == sorted(flags, reverse=True)


def test_a_rebuilt_image_is_no_all_clear() -> None:
    told = verdicts(facts("off"), sections(0.97, 0.0, "off"))
    assert [verdict.alarming for verdict in told] == [True, True]
    assert "An image of this site was rebuilt from a plain update" in told[1].words
    assert "This run sends plain updates" in told[1].words
    assert not any("contradicts" in verdict.words for verdict in told)
    traces = words.of_inversion("off", inverted(0.3), inverted(0.0))
    assert traces.alarming
    assert traces.words.startswith("Traces of an image")
    assert not words.of_inversion("off", inverted(0.1), inverted(0.0)).alarming


def test_a_run_that_sums_under_masks_is_told_by_what_the_server_sees_of_one_site() -> None:
    for scope, private in (("off", 0.0), ("end-to-end", 0.6)):
        told = words.of_inversion(scope, inverted(0.9), inverted(private), inverted(0.05))
        assert told.words.startswith("No image was rebuilt from a masked update")
        assert "An image of this site was rebuilt from the same update in clear" in told.words
        assert "were not attacked" in told.words
        assert "sends plain updates" not in told.words
        assert not told.alarming
    assert words.of_inversion("off", inverted(0.9), inverted(0.0), inverted(0.6)).alarming


def test_a_claim_that_nobody_tested_is_not_called_kept() -> None:
    told = verdicts(facts("end-to-end"), sections(0.1, 0.0, "end-to-end")[1:])
    assert any("was not put to the test" in verdict.words for verdict in told)
    assert "labelled step alone" in words.of_claims("labelled-step", [("a", False)]).words


def test_one_test_is_not_called_all() -> None:
    assert words.of_tests([("a", False)]) == "The one test keeps within what is claimed."
    assert words.of_tests([("a", False)] * 2) == "All 2 tests keep within what is claimed."
    assert "the only one proves less" in words.of_claims("end-to-end", [("a", False)]).words


def test_a_small_image_is_enlarged_until_it_is_seen() -> None:
    for side, width in ((8, 2 * 10 * 16), (32, 2 * 34 * 4), (224, 2 * 226 * 4)):
        with Image.open(io.BytesIO(picture([torch.zeros(3, side, side)] * 2))) as image:
            assert image.width == width


def test_a_section_without_numbers_explains_none(tmp_path: Path) -> None:
    none = Section("samples", [Line("synthetic samples", None, None, "none")], "", {}, verdict=words.Verdict("There are none."))
    page = write_audit(tmp_path / "audit", facts("off"), [none]).read_text()
    assert "There are none." in page
    assert "<dt>" not in page.split("There are none.")[-1]


def test_membership_is_told_by_its_interval() -> None:
    rng = np.random.default_rng(0)
    strong = success("loss", rng.normal(1, 1, 500), rng.normal(0, 1, 500))
    none = success("loss", rng.normal(0, 1, 500), rng.normal(0, 1, 500))
    assert words.of_membership([none, strong]).alarming
    assert "better than a coin would (loss: AUROC 0.7" in words.of_membership([none, strong]).words
    assert not words.of_membership([none]).alarming
    (row,) = words.membership_table([strong]).rows
    assert [name for name, _ in row.cells][-1] == "found at 0.1 % false alarms"


@pytest.mark.parametrize(
    ("share", "p", "said"), [(0.8, 0.001, "and would give some away"), (0.52, 0.4, "no nearer"), (0.2, 0.01, "no nearer")]
)
def test_samples_are_told_by_their_p(share: float, p: float, said: str) -> None:
    found = MemorisationAudit(100, 50, Estimate(share, share - 0.1, share + 0.1), p, 0.1, 0.2, ())
    assert said in words.of_samples(found).words


def test_the_page_is_dated_names_its_data_and_explains_every_number(tmp_path: Path) -> None:
    attack = success("loss threshold", np.arange(9.0), np.arange(9.0))
    samples = MemorisationAudit(100, 50, Estimate(0.5, 0.4, 0.6), 0.5, 0.1, 0.2, ())
    more = [
        Section("canary", [Line("one run", 1.0, 0.5, "", False)], "a note", {}),
        Section("membership", [], "a note", [], {}, words.of_membership([attack]), words.membership_table([attack])),
        Section("samples", [], "a note", {}, {}, words.of_samples(samples), words.samples_table(samples)),
    ]
    page = write_audit(tmp_path / "audit", facts("end-to-end"), [*sections(0.97, 0.03, "end-to-end"), *more])
    text = page.read_text()
    assert "Audit of site 3 on chest &lt;x-rays&gt;" in text
    assert "2026-11-28 10:00 UTC" in text
    assert text.index("No test contradicts") < text.index("<h2>")
    seen = read(page)
    plain = {"test", "measured", "attack", "update", "others", "training images", "synthetic images", "images per side"}
    assert unexplained(seen, {*plain, *facts("off"), "to others"}) == []
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["audits"]["mechanism"]["numbers"] == [{"trials": 5}]
    assert page.stat().st_mode & 0o777 == 0o600
    assert page.parent.stat().st_mode & 0o777 == 0o700
