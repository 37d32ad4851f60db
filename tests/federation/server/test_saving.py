"""Checkpoints come after every round where a round must last, and otherwise as often as they are cheap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.federation.server import saving
from mpssl_fed.runs.checkpoint import Checkpoint
from mpssl_fed.runs.rounds import Round
from mpssl_fed.runs.run_directory import RunDirectory, open_run


class _Unwritten:
    full = False

    def __init__(self, run: RunDirectory) -> None:
        self.run, self.flushed = run, []

    def interrupt(self) -> None:
        pass

    def flush(self) -> None:
        on_disk = self.run.checkpoint()
        self.flushed.append(on_disk and on_disk.round)


def _state(run: RunDirectory, number: int) -> Checkpoint:
    return Checkpoint(run.run_id, number, {}, {}, [Round(one) for one in range(number + 1)])


@pytest.fixture
def run(tmp_path: Path, tiny: Callable[..., Config]) -> RunDirectory:
    return open_run(tiny(), tmp_path / "run")


def _on_disk(run: RunDirectory) -> int:
    found = run.checkpoint()
    assert found is not None
    return found.round


def test_every_round_without_a_hold(run: RunDirectory) -> None:
    saved = saving.Saving(run, None)
    for number in (1, 2, 3):
        saved.after(_state(run, number))
        assert _on_disk(run) == number


def test_dear_checkpoints_wait_and_the_last_comes(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "WORK_TO_COST", 1e9)
    hold = _Unwritten(run)
    saved = saving.Saving(run, hold)
    for number in (1, 2, 3):  # nothing is known of the cost of the first
        saved.after(_state(run, number))
        assert _on_disk(run) == 1
    hold.full = True
    saved.after(_state(run, 4))
    assert _on_disk(run) == 4
    hold.full = False
    saved.after(_state(run, 5))
    saved.now()
    saved.now()
    assert _on_disk(run) == 5
    assert hold.flushed == [None, 1, 4]  # the sites' part is on disk before the server's


def test_last_words_hide_no_error(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "WORK_TO_COST", 1e9)
    saved = saving.Saving(run, _Unwritten(run))
    saved.after(_state(run, 1))
    saved.after(_state(run, 2))
    monkeypatch.setattr(RunDirectory, "save", lambda *_: (_ for _ in ()).throw(UserError("full")))
    saved.last_words()
    monkeypatch.undo()
    saved.last_words()
    assert _on_disk(run) == 2
