"""``overwrite`` deletes what a run wrote, all of it, and nothing else: no owner's file, no other folder, nothing behind a link."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import mpssl_fed
from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.report.diagnosis import diagnose
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.runs.lock import LOCK
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.run_directory import RunDirectory, open_run
from mpssl_fed.runs.written import clear
from mpssl_fed.study.cell import Task, run_cell
from mpssl_fed.study.run import run_study, show_run_files
from tests.study.runs import plan_of

Runner = Callable[..., RunDirectory]
MINE = ("notes.txt", "predictions.csv", "model.onnx", "sites/0/audit/audit.json", "sites/mine.txt", "checkpoints/of-epoch-3.pt")
MINE_TOO = ("plots/for-the-paper.svg", "logs/grep.txt", ".hidden", "sub/config.yaml", "sites/0/ledger.sqlite.bak", "tensorboard/x")


class Notes(Progress):
    """Remembers what was noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep the note."""
        self.notes.append(text)


def put(folder: Path, names: tuple[str, ...]) -> None:
    """Write the owner's files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")


def test_all_that_a_run_writes_is_known_and_goes(run_tiny: Runner) -> None:
    private = ["privacy.epsilon=8", "privacy.public_size=100", "privacy.delta=1e-4", "privacy.sample_rate=0.1"]
    run = run_tiny("federation.rounds=1", *private)
    write_run_report(run.folder)
    plain = run_tiny("federation.rounds=1", "method.name=mp-ssl", "seed=1", overwrite=True)
    diagnose(plain.folder)
    write_run_report(plain.folder)
    (run.folder / ".config.yaml.ab12cd_8").write_text("cut by a kill")
    (run.folder / "result.json").write_text("{}")
    assert clear(run.folder) == []
    assert [path.name for path in run.folder.iterdir()] in ([], [LOCK])


def test_what_the_owner_put_there_stays_and_is_named(run_tiny: Runner) -> None:
    run = run_tiny("federation.rounds=1")
    put(run.folder, (*MINE, *MINE_TOO))
    notes = Notes()
    again = mpssl_fed.simulate(run.config, "seed=5", output=run.folder, overwrite=True, progress=notes)
    assert again.config.seed == 5
    assert all((run.folder / name).read_text() == "mine" for name in (*MINE, *MINE_TOO))
    assert "kept in" in notes.notes[0]
    assert ".hidden" in notes.notes[0]
    assert json.loads((run.folder / "manifest.json").read_text())["run_id"] != run.run_id
    assert all(record.number == number for number, record in enumerate(again.history))


@pytest.mark.parametrize("content", ['{"name": "web app", "icons": []}', "{}", "[]", '{"run_id": 3}', '{"run_id": "x', ""])
def test_another_programs_manifest_makes_no_run(content: str, tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    put(tmp_path, ("index.html", "config.yaml"))
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match=r"manifest.json: "):
            open_run(tiny(), tmp_path, **flags)
    assert (tmp_path / "config.yaml").read_text() == "mine"


@pytest.mark.parametrize("inside", [".", "sites", "sites/0"])
def test_the_folder_one_is_in_is_never_emptied(inside: str, run_tiny: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_tiny("federation.rounds=1")
    (run.sites / "0").mkdir()
    monkeypatch.chdir(run.folder / inside)
    for output in (run.folder, Path("../" * len(Path(inside).parts) or ".")):
        with pytest.raises(UserError, match="is the folder that you are in, or holds it"):
            mpssl_fed.simulate(run.config, output=output, overwrite=True)
    assert (run.folder / "model.safetensors").is_file()
    assert mpssl_fed.simulate(run.config, output=run.folder, resume=True).accuracy >= 0  # going on is no harm


def test_a_link_to_a_run_is_that_run(run_tiny: Runner, tmp_path: Path) -> None:
    run = run_tiny("federation.rounds=1")
    put(run.folder, ("notes.txt",))
    link = tmp_path / "latest"
    link.symlink_to(run.folder)
    with pytest.raises(UserError, match="exists; resume=True continues it"):
        mpssl_fed.simulate(run.config, output=link)
    mpssl_fed.simulate(run.config, "seed=3", output=link, overwrite=True)
    assert link.is_symlink()
    assert mpssl_fed.Run.open(run.folder).config.seed == 3
    assert (run.folder / "notes.txt").read_text() == "mine"
    nowhere = tmp_path / "nowhere"
    nowhere.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="is a link to nothing"):
        mpssl_fed.simulate(run.config, output=nowhere, overwrite=True)


def test_nothing_is_deleted_through_a_link_inside(run_tiny: Runner, tmp_path: Path) -> None:
    run = run_tiny("federation.rounds=1")
    other = tmp_path / "big-disk"
    shutil.move(run.folder / "sites", other)
    (run.folder / "sites").symlink_to(other)
    before = sorted(path.name for path in other.rglob("*"))
    with pytest.raises(UserError, match="sites is a link to another folder"):
        mpssl_fed.simulate(run.config, output=run.folder, overwrite=True)
    (run.folder / "sites").unlink()
    (run.folder / "model.safetensors").replace(tmp_path / "model")
    (run.folder / "model.safetensors").symlink_to(tmp_path / "model")
    weights = (tmp_path / "model").read_bytes()
    mpssl_fed.simulate(run.config, "seed=2", output=run.folder, overwrite=True)
    assert (tmp_path / "model").read_bytes() == weights
    assert not (run.folder / "model.safetensors").is_symlink()
    assert sorted(path.name for path in other.rglob("*")) == before


def test_both_flags_are_one_too_many_and_a_run_forgets_them(run_tiny: Runner) -> None:
    run = run_tiny("federation.rounds=1")
    with pytest.raises(UserError, match="resume=True and overwrite=True are both given"):
        mpssl_fed.simulate(run.config, output=run.folder, resume=True, overwrite=True)
    again = mpssl_fed.simulate(run.config, "output.overwrite=true", output=run.folder)
    assert not again.config.output.overwrite
    with pytest.raises(UserError, match="exists; resume=True"):  # started again from its own config it overwrites nothing
        mpssl_fed.simulate(run.folder / "config.yaml", "seed=9")


def test_a_study_overwrites_its_cells_and_keeps_what_is_not_theirs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, grid={"method.name": ["base"]}, seeds=1, show={"method.name": "base"})
    cell = tmp_path / "out" / "cells" / plan.cells[0].id
    assert run_cell(Task.of(plan.cells[0], tmp_path / "out")).finished
    (tmp_path / "out" / "study.yaml").write_text(plan.to_yaml())
    first = json.loads((cell / "manifest.json").read_text())["run_id"]
    put(cell, MINE)
    put(tmp_path / "out", (*MINE, "results/paper.tex"))
    again = run_study(plan, tmp_path / "out", 1, overwrite=True)
    assert not again.failed
    assert json.loads((cell / "manifest.json").read_text())["run_id"] != first
    assert (tmp_path / "out" / "manifest.json").read_bytes() == (cell / "manifest.json").read_bytes()
    show_run_files(again)
    assert all((cell / name).read_text() == "mine" for name in MINE)
    assert all((tmp_path / "out" / name).read_text() == "mine" for name in (*MINE, "results/paper.tex"))


def test_runs_and_studies_of_one_name_have_folders_of_their_own(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial.yaml").write_text(tiny("federation.rounds=1").to_yaml())
    plan = plan_of(tmp_path / "other", name="trial", grid={"method.name": ["base"]}, seeds=1)
    assert str(plan.folder()) == "runs/trial"
    (tmp_path / "runs" / "trial").mkdir(parents=True)
    (tmp_path / "runs" / "trial" / "study.yaml").write_text(plan.to_yaml())
    assert str(mpssl_fed.simulate("trial.yaml").folder) == "runs/trial-run"
    shutil.rmtree(tmp_path / "runs" / "trial")
    (tmp_path / "runs" / "trial-run").rename(tmp_path / "runs" / "trial")
    assert str(plan.folder()) == "runs/trial-study"
