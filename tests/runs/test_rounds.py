"""A round has its way to a line of metrics.jsonl and back, says what was evaluated, and is still read as version 0.1 wrote it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.app import app
from mpssl_fed.errors import UserError
from mpssl_fed.federation.engines.simulation import simulate
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.reader import RunReader
from mpssl_fed.runs.rounds import HELD_OUT, Round, read_rounds
from mpssl_fed.runs.run_directory import open_run
from tests.federation.conftest import tiny_config
from tests.study.runs import write_run

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1"
RATE = st.floats(0, 1)
REAL = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 10**6)
ROUNDS = st.builds(
    Round,
    number=COUNT,
    accuracy=st.none() | RATE,
    loss=st.none() | REAL,
    train_loss=st.none() | REAL,
    seconds=REAL,
    evaluated=st.none() | st.sampled_from(HELD_OUT),
    asked=COUNT,
    answered=COUNT,
    missing=COUNT,
    rejected=st.dictionaries(st.sampled_from(("policy", "budget", "app-raised")), COUNT),
    generated=st.none() | COUNT,
    timings=st.dictionaries(st.sampled_from(("train", "evaluate")), REAL),
    failed=st.booleans(),
)


@given(ROUNDS)
def test_a_line_and_back(one: Round) -> None:
    line = json.dumps(one.to_json(), allow_nan=False)
    assert Round.from_json(json.loads(line), "here") == one
    assert {field.name for field in dataclasses.fields(Round)} == one.__dict__.keys()
    assert not any(isinstance(value, dict) for value in one.flat().values())


def test_rounds_of_version_0_1_open_and_say_nothing_that_they_did_not_know() -> None:
    rounds = read_rounds(OLD / "run-off" / "metrics.jsonl")
    assert [one.number for one in rounds] == [0, 1, 2]
    assert [one.evaluated for one in rounds] == [None] * 3
    assert (rounds[1].accuracy, rounds[1].answered, rounds[1].generated) == (0.2777777777777778, 2, 0)
    written = [json.loads(line) for line in (OLD / "run-off" / "metrics.jsonl").read_text().splitlines()]
    assert [one.to_json() for one in rounds] == [
        line | {"evaluated": None, "test_balanced_accuracy": None, "test_auroc": None} for line in written
    ]


def test_what_was_evaluated_is_what_the_round_says(tmp_path: Path) -> None:
    """Else, for a run of version 0.1, its config; so a validation accuracy is not taken for one on the test set."""
    config: dict[str, Any] = {"data": {"held_out": "validation"}}
    run = RunReader(write_run(tmp_path / "old", [0.1, 0.6], config))
    assert run.held_out == "validation"
    assert RunReader(write_run(tmp_path / "older", [0.1, 0.6])).held_out == "test"
    file = write_run(tmp_path / "new", [0.1, 0.6], config) / "metrics.jsonl"
    said = [Round.from_json(json.loads(line), "") for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(dataclasses.replace(one, evaluated="test").to_json()) + "\n" for one in said))
    assert RunReader(tmp_path / "new").held_out == "test"


@pytest.mark.parametrize("which", HELD_OUT)
def test_a_run_says_it(which: str, tmp_path: Path) -> None:
    config = tiny_config(f"data.held_out={which}", "federation.sites=1", "federation.local_steps=1", "federation.eval_every=2")
    run = open_run(config, tmp_path / "run")
    simulate(run, lambda: app, Progress())
    assert [one.evaluated for one in RunReader(run.folder).rounds] == [which, None, which]


@pytest.mark.parametrize(
    ("key", "value"),
    [("round", "1"), ("sites_asked", None), ("test_accuracy", "high"), ("timings", [1]), ("rejected", {"x": "y"}),
     ("seconds", None), ("evaluated", "train")],
)  # fmt: skip
def test_a_damaged_line_is_named(key: str, value: Any) -> None:
    line = Round(1).to_json() | {key: value}
    with pytest.raises(UserError, match=f"metrics.jsonl, line 2: '{key}' is missing, of a wrong type or out of its range; "):
        Round.from_json(line, "metrics.jsonl, line 2")


def test_a_round_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Round(1).accuracy = 1.0  # type: ignore[misc]
