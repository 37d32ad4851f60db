"""Reading run directories, damaged ones too."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.runs.reader import RunReader
from tests.study.runs import write_run


def test_what_a_run_tells(tmp_path: Path) -> None:
    run = RunReader(write_run(tmp_path, [0.1, 0.6, 0.9], sites=11))
    assert run.accuracy == [(0, 0.1), (1, 0.6), (2, 0.9)]
    assert run.train_loss == [(1, 1.0), (2, pytest.approx(2 / 3))]
    assert run.timing("generate") == pytest.approx(0.75)
    assert [site.name for site in run.sites] == [str(n) for n in range(11)]


def test_a_last_line_cut_by_a_kill_is_left_out_but_a_damaged_one_before_is_an_error(tmp_path: Path) -> None:
    file = write_run(tmp_path, [0.1, 0.6, 0.9]) / "metrics.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-20])
    assert len(RunReader(tmp_path).rounds) == 2
    file.write_text("{" + whole)
    with pytest.raises(UserError, match="line 1: not valid JSON"):
        _ = RunReader(tmp_path).rounds


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is .* the directory of a run"):
        _ = RunReader(tmp_path).rounds
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no round"):
        _ = RunReader(tmp_path).rounds
