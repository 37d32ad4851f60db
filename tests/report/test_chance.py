"""A run that learnt nothing says so, with three causes; a run that learnt does not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from scipy.stats import binomtest

from mpssl_fed.cli import main
from mpssl_fed.config.load import from_mapping, override
from mpssl_fed.data.datasets import Images
from mpssl_fed.federation.server.evaluate import guessing
from mpssl_fed.report.chance import Chance, at_chance, causes, chance_of, warning
from mpssl_fed.report.run_report import report_run
from mpssl_fed.runs.reader import RunReader
from mpssl_fed.study.keys import get_key
from tests.study.runs import write_run

HELD_OUT = {"images": 1000, "largest_class": 120}


def run_at(
    folder: Path, accuracy: float, config: dict[str, Any] | None = None, held_out: dict[str, int] | None = HELD_OUT
) -> RunReader:
    """Return a run that ended with this accuracy on images of which this is known."""
    write_run(folder, [0.1, accuracy], config)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | ({"held_out": held_out} if held_out else {})))
    return RunReader(folder)


def test_guessing_is_the_largest_class_of_the_images() -> None:
    y = torch.tensor([0, 0, 0, 1, 2])
    assert guessing(Images(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), y)) == {"images": 5, "largest_class": 3}
    assert guessing(None) is None


@pytest.mark.parametrize("images", [10, 200, 5000])
def test_the_line_between_luck_and_learning_is_the_binomial_one(images: int) -> None:
    chance = Chance(0.3, images)
    least = next(k for k in range(images + 1) if not chance.explains(k / images))
    interval = binomtest(least, images).proportion_ci(0.95, method="wilson")
    assert chance.interval(least / images) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert interval.low > 0.3
    assert least / images > 0.3
    assert all(chance.explains(k / images) for k in range(least))
    assert chance.explains(0.0)
    assert not chance.explains(1.0)


def test_a_constant_answer_on_skewed_images_is_chance_though_far_above_one_over_classes(tmp_path: Path) -> None:
    run = run_at(tmp_path, 0.6, held_out={"images": 500, "largest_class": 300})
    assert chance_of(run) == Chance(0.6, 500)
    assert at_chance(run)
    assert "guessing gets 60.0 %" in warning(run)[0]


def test_runs_that_do_not_tell_their_images_are_judged_by_their_classes(tmp_path: Path) -> None:
    unknown = run_at(tmp_path / "a", 0.11, held_out=None)
    assert chance_of(unknown) == Chance(0.1, None)
    assert not at_chance(unknown)
    assert at_chance(run_at(tmp_path / "b", 0.1, held_out=None))
    limited = run_at(tmp_path / "c", 0.11, {"data": {"test_limit": 100}}, held_out=None)
    assert chance_of(limited) == Chance(0.1, 100)
    assert at_chance(limited)
    for damaged in ("[]", '{"classes": 7}'):
        (limited.path / "labels.json").write_text("{}" if damaged == "[]" else damaged)
        assert chance_of(RunReader(limited.path)) is None
    (limited.path / "labels.json").unlink()
    assert chance_of(RunReader(limited.path)) is None
    assert warning(RunReader(limited.path)) == []


def test_a_run_that_learnt_is_not_warned_of(tmp_path: Path) -> None:
    assert warning(run_at(tmp_path, 0.5)) == []
    assert "within noise of chance" not in report_run(tmp_path, print).read_text()


CASES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, ("federation.local_steps=500", "images of generator glyphs-digits", "labels may not belong together")),
    (
        {"privacy": {"epsilon": 1.0, "public_size": 100}, "federation": {"local_steps": 2000}, "data": {"labels_per_class": 50}},
        ("warm_start.part=both", "generator glyphs-digits", "may not belong"),
    ),
    (
        {"privacy": {"epsilon": 1, "public_size": 100}, "warm_start": {"part": "both"}, "model": {"trainable": "head"}},
        ("Raise privacy.epsilon", "federation.local_steps=500", "generator glyphs-digits"),
    ),
    (
        {"method": {"name": "base"}, "data": {"labels_per_class": 2, "partition": {"name": "pathological"}}},
        ("Too little training", "Too few labels: 2 per class", "federation.anchor.weight=1"),
    ),
    (
        {"method": {"name": "base"}, "federation": {"local_steps": 900}},
        ("may not belong together", "Try optim.lr=0.0003 and optim.lr=0.03 (it is 0.003)", "federation.rounds (it is 5)"),
    ),
]


@pytest.mark.parametrize(("config", "told"), CASES)
def test_three_causes_follow_from_the_settings(tmp_path: Path, config: dict[str, Any], told: tuple[str, ...]) -> None:
    found = causes(run_at(tmp_path, 0.1, config))
    assert len(found) == 3
    for cause, words in zip(found, told, strict=True):
        assert words in cause


@pytest.mark.parametrize("config", [config for config, _ in CASES])
def test_what_is_told_to_set_can_be_set(tmp_path: Path, config: dict[str, Any]) -> None:
    run = run_at(tmp_path, 0.1, config)
    for cause in causes(run):
        settings = dict(re.findall(r"\b((?:\w+\.)+\w+)=([\w.-]*\w)", cause))
        resolved = from_mapping(override(config, [f"{key}={value}" for key, value in settings.items()])).dump()
        for key, value in settings.items():
            assert get_key(resolved, key) == yaml.safe_load(value)


def test_a_loss_that_grows_comes_first(tmp_path: Path) -> None:
    run = run_at(tmp_path, 0.1)
    rounds = [dict(json.loads(line)) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rounds.append({**rounds[1], "round": 2, "train_loss": 40.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rounds))
    assert "optim.lr=0.0003" in causes(RunReader(run.path))[0]


def test_a_real_run_at_chance_says_so_in_terminal_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", "demo", "data.labels_per_class=1", "data.test_limit=100", "method.name=base", "optim.lr=1e-9"]
    monkeypatch.setattr("sys.argv", ["mpssl-fed", *words, "--rounds", "1", "--output", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert "This run ends within noise of chance" in said
    assert [line[:2] for line in said.splitlines()[-3:]] == ["1.", "2.", "3."]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "This run ends within noise of chance" in page
    assert "which is within noise of chance" in page
    held_out = json.loads((tmp_path / "run" / "manifest.json").read_text())["held_out"]
    assert held_out["images"] == 100
    assert 10 <= held_out["largest_class"] <= 30
