"""``mpssl-fed simulate`` as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mpssl_fed.cli import main
from mpssl_fed.cli.live import LiveTable
from mpssl_fed.config import from_mapping
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.rounds import Round
from tests.patience import PATIENCE_S, wait_for

TINY = ["data.labels_per_class=2", "data.test_limit=200", "method.name=base", "federation.local_steps=1"]


def _call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mpssl-fed", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text("federation: {sites: 4, rounds: 9}\n")
    return str(path)


def test_simulate_prints_a_line_a_round(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _call(monkeypatch, "simulate", config, *TINY, "--sites", "2", "--rounds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("round")] == ["0/2", "1/2", "2/2"]
    assert "2/2 sites" in lines[-2]
    assert "runs/mine" in lines[-1]
    assert read_manifest(tmp_path / "runs" / "mine")["command"].startswith("mpssl-fed simulate")


def test_bad_input_exits_two_with_one_message(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _call(monkeypatch, "simulate", config, "federation.sitess=3") == 2
    err = capsys.readouterr().err
    assert "federation.sitess" in err
    assert "Did you mean 'sites'?" in err
    assert "Traceback" not in err
    assert _call(monkeypatch, "simulate", "nowhere.yaml") == 2
    assert "no such file" in capsys.readouterr().err


def test_existing_run_is_refused_resumed_and_overwritten(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate", config, *TINY, "--sites", "2", "--rounds", "1", "--output", str(tmp_path / "run")]
    assert _call(monkeypatch, *words) == 0
    first = json.loads((tmp_path / "run" / "manifest.json").read_text())["run_id"]
    assert _call(monkeypatch, *words) == 2
    assert "--resume continues it" in capsys.readouterr().err
    assert _call(monkeypatch, *words, "--resume") == 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["run_id"] == first
    assert _call(monkeypatch, *words, "--overwrite") == 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["run_id"] != first


def test_control_c_keeps_what_is_done_and_says_how_to_go_on(config: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["simulate", config, *TINY, "--sites", "2", "--rounds", "400", "--output", str(folder)]
    program = [sys.executable, "-c", "from mpssl_fed.cli import main; main()", *words]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    wait_for(lambda: len(read_history(folder)) >= 3 or process.poll() is not None, "round 2")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err
    assert read_manifest(folder)["status"] == "interrupted"
    rounds = [record.number for record in read_history(folder)]
    assert rounds == list(range(len(rounds)))
    assert 3 <= len(rounds) < 401


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ("Begin with: mpssl-fed simulate demo", "Simulate a federation of sites on this machine.")),
        (("simulate",), ("YAML file, or the name of a shipped config such as 'demo'.", "key.path=value ...")),
        (("predict",), ("Image files of any size",)),
    ],
)
def test_help_explains_commands_and_their_arguments(
    words: tuple[str, ...], said: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert _call(monkeypatch, *words, "--help") == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in said), shown


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys; from mpssl_fed.cli import build; build(); assert 'torch' not in sys.modules and 'flwr' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_live_table_shows_what_was_left_out() -> None:
    console = Console(force_terminal=True, width=110, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    table = LiveTable(console)
    table.start(from_mapping({"federation": {"rounds": 2}}), "runs/x")
    record = Round(1, 0.5, 1.0, train_loss=2.25, seconds=3.0, asked=4, answered=2, missing=1, rejected={"non-finite": 1})
    table.round(record)
    table.end()
    console.file.close()
    text = console.export_text()
    for word in ("2.2500", "0.5000", "2/4", "1 non-finite", "1 missing"):
        assert word in text
