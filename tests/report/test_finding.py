"""The first sentence of a run's report says what its numbers carry, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.report.finding import run_finding
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.runs.reader import RunReader
from tests.study.runs import write_run


def finding(folder: Path, accuracies: list[float], config: dict[str, Any] | None = None, images: int | None = 1000) -> str:
    """Return the sentence of a run with these accuracies, on as many images of ten equal classes."""
    write_run(folder, accuracies, config)
    manifest = json.loads((folder / "manifest.json").read_text())
    known = {"held_out": {"images": images, "largest_class": images // 10}} if images else {}
    (folder / "manifest.json").write_text(json.dumps(manifest | known))
    return run_finding(RunReader(folder))


@pytest.mark.parametrize(
    ("accuracies", "images", "said", "unsaid"),
    [
        ([0.1, 0.5, 0.8], 1000, ("After 2 of 2 rounds", "80.0 % of 1,000 test images", "77.4 to 82.4"), ("noise", "best")),
        ([0.1, 0.5, 0.8], 1000, ("better than chance (10.0 %)", "the untrained model had 10.0 %."), ("worse",)),
        ([0.1, 0.8, 0.5], 1000, ("it was best after round 1, with 80.0 %",), ("noise",)),
        ([0.1, 0.51, 0.5], 1000, ("50.0 %",), ("best",)),
        ([0.79, 0.8], 1000, ("the untrained model had 79.0 %, no different beyond noise",), ()),
        ([0.79, 0.8], 1_000_000, ("the untrained model had 79.0 %.",), ("noise",)),
        ([0.1, 0.11], 1000, ("within noise of chance (10.0 %): it has learnt nothing",), ("better",)),
        ([0.1, 0.02], 1000, ("worse than chance",), ("better", "learnt")),
        ([0.1, 0.11], None, ("chance is about 10.0 %",), ("better", "worse", "interval")),
    ],
)  # fmt: skip
def test_what_is_said(
    tmp_path: Path, accuracies: list[float], images: int | None, said: tuple[str, ...], unsaid: tuple[str, ...]
) -> None:
    sentence = finding(tmp_path, accuracies, images=images)
    for words in said:
        assert words in sentence, sentence
    for words in unsaid:
        assert words not in sentence, sentence
    assert sentence.endswith(".")
    page = write_run_report(tmp_path).read_text()
    assert page.index(sentence[:40]) < page.index("<h2>")
    assert "one run with one seed" in page


def test_warm_start_and_validation_are_named(tmp_path: Path) -> None:
    sentence = finding(tmp_path, [0.6, 0.8], {"warm_start": {"part": "body"}, "data": {"held_out": "validation"}})
    assert "1,000 validation images" in sentence
    assert "the model that the public generator had warmed had 60.0 %" in sentence


@pytest.mark.parametrize(("share", "said"), [(1.0, "All of the pool labelled."), (0.25, "0.25 of the pool labelled.")])
def test_the_labelled_share_is_told_in_words_where_it_is_all(tmp_path: Path, share: float, said: str) -> None:
    run = write_run(tmp_path, [0.1, 0.8], {"data": {"labels_per_class": None, "label_fraction": share}})
    assert said in write_run_report(run).read_text()


def test_a_run_without_rounds_and_one_without_images(tmp_path: Path) -> None:
    alone = {"method": {"name": "generator-only"}, "federation": {"rounds": 1}}
    assert finding(tmp_path / "a", [0.7], alone).startswith("Taught by the public generator alone, the")
    assert finding(tmp_path / "b", [0.7], {"federation": {"rounds": 3}}).startswith("Before round 1 the model is right on 70.0 %")
    folder = tmp_path / "c"
    write_run(folder, [0.1, 0.5])
    unknown = {"test_accuracy": None, "test_loss": None}
    lines = [json.loads(line) | unknown for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "nothing is known" in run_finding(RunReader(folder))
    assert "nothing is known" in write_run_report(folder).read_text()
