"""A run tells how far it is: every round, and within a long one and a warm start."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

import mpssl_fed
from mpssl_fed.cli.live import LiveTable
from mpssl_fed.config import Config
from mpssl_fed.runs.json_lines import JsonLines
from mpssl_fed.runs.progress import LONGEST_SILENCE_S, Lines, Progress
from mpssl_fed.runs.rounds import Round
from mpssl_fed.watch import tell, watched_by


class Steps(Progress):
    """Remembers every step."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []

    def step(self, what: str, done: int, total: int) -> None:
        """Keep the step."""
        self.steps.append((what, done, total))


def test_every_step_of_a_warm_start_and_of_each_site_is_told(tiny: Callable[..., Config], tmp_path: Path) -> None:
    steps = Steps()
    words = ["federation.rounds=2", "federation.sites=2", "federation.local_steps=3", "warm_start={part: both, steps: 4, batch: 4}"]
    mpssl_fed.simulate(tiny(*words), output=tmp_path / "run", progress=steps)
    warm = [(f"warm start, {part}", done, 4) for part in ("body", "head") for done in range(1, 5)]
    rounds = []
    for number in (1, 2):
        for site in (1, 2):
            rounds += [(f"round {number}, site {site} of 2", done, 3) for done in (1, 2, 3)]
            rounds += [(f"round {number}, sites that answered", site, 2)]
    assert steps.steps == warm + rounds


def test_lines_come_in_a_long_round_and_not_in_a_short_one() -> None:
    now, printed = [0.0], []
    lines = Lines(printed.append, lambda: now[0])
    for _ in range(9):
        now[0] += 1
        lines.step("round 1, site 1 of 2", 1, 60)
    assert printed == []
    at = []
    for second in range(10, 400):
        now[0] = float(second)
        lines.step("round 1, site 1 of 2", second, 400)
        at += [second] if len(printed) > len(at) else []
    assert at[:3] == [10, 30, 70]  # ever less often
    assert printed[0] == "round 1, site 1 of 2: 10 of 400"
    assert max(later - sooner for sooner, later in pairwise(at)) == LONGEST_SILENCE_S
    lines.note("a new round")
    now[0] += 11
    lines.step("round 2, site 1 of 2", 1, 60)
    assert printed[-2:] == ["a new round", "round 2, site 1 of 2: 1 of 60"]


def test_lines_as_json_say_the_same_and_carry_the_numbers() -> None:
    now, plain, printed = [0.0], list[str](), list[str]()
    both = (Lines(plain.append, lambda: now[0]), JsonLines(printed.append, lambda: now[0]))
    for lines in both:
        now[0] = 0.0
        lines.start(mpssl_fed.config.from_mapping({"federation": {"rounds": 2, "sites": 3}}), "runs/x")
        lines.note('a "note"')
        now[0] = 11.0
        lines.step("round 1, site 1 of 3", 1, 60)
        lines.round(Round(1, accuracy=0.5, loss=1.5, asked=3, answered=2, rejected={"plan": 1}, seconds=2.0))
        now[0] += 9.9
        lines.step("round 2, site 1 of 3", 2, 60)  # too soon after the round's line
    told = [json.loads(line) for line in printed]
    assert [one["message"] for one in told if one["message"] != "started"] == plain
    assert {(one["level"], one["logger"]) for one in told} == {("INFO", "mpssl_fed.run")}
    assert {key: told[1][key] for key in ("folder", "rounds", "sites")} == {"folder": "runs/x", "rounds": 2, "sites": 3}
    assert {key: told[-1][key] for key in ("round", "test_accuracy", "sites_answered")} == {
        "round": 1, "test_accuracy": 0.5, "sites_answered": 2,
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_live_table_shows_the_step_below_it(encoding: str, tmp_path: Path) -> None:
    with open(tmp_path / "out", "w", encoding=encoding) as file:
        console = Console(force_terminal=True, width=110, file=file)
        table = LiveTable(console)
        table.start(mpssl_fed.config.from_mapping({"federation": {"rounds": 2}}), "runs/x")
        table.step("round 1, site 2 of 4", 40, 60)
        text = "".join(segment.text for segment in console.render(table._view()))
        table.end()
    assert "round 1, site 2 of 4: 40 of 60" in text
    assert text.isascii() == (encoding == "ascii")


def test_only_the_one_that_watches_hears() -> None:
    heard: list[int] = []
    tell("x", 1, 2)
    with watched_by(lambda _what, done, _total: heard.append(done)):
        tell("x", 2, 3)
        with watched_by(lambda *_: None):
            tell("x", 3, 3)
        tell("x", 4, 4)
    tell("x", 5, 5)
    assert heard == [2, 4]


def test_a_run_is_one_readable_line(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = mpssl_fed.simulate(tiny("federation.rounds=1"), output=tmp_path / "run")
    text = repr(run)
    assert text == str(run)
    assert "\n" not in text
    assert len(text) < 140 + len(str(tmp_path))
    for part in (f"'{tmp_path / 'run'}'", "base on mnist-5k", "3 sites", "round 1 of 1", f"test accuracy {run.accuracy:.4f}"):
        assert part in text
    assert repr(mpssl_fed.Run(run.folder, run.config, [])).endswith("round 0 of 1, not evaluated>")
