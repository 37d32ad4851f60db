"""Killed at any change of the disk, a run is gone on with, or says what happened; nothing of another run is taken for its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mpssl_fed import api
from mpssl_fed.config import from_mapping
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.errors import UserError
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.runs.checkpoint import Checkpoint
from mpssl_fed.runs.reader import read_config, read_history
from mpssl_fed.runs.rounds import Round
from mpssl_fed.runs.run_directory import RunDirectory, open_run
from mpssl_fed.runs.where import refuse_occupied
from mpssl_fed.study.report.page import write_report
from tests.killed import every_kill, killed_at

OLD, NEW = (from_mapping({"federation": {"sites": 1, "rounds": 1}, "seed": seed}) for seed in (1, 2))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that is killed everything reaches the disk that it has written; a power cut is another matter."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def _finish(run: RunDirectory) -> None:
    classifier = build_classifier(Architecture("small-cnn", ("a", "b"), 1, 16), seed=run.config.seed)
    run.save(Checkpoint(run.run_id, 0, classifier.shared_state(), {}, [Round(0, accuracy=0.1 * run.config.seed)]))
    run.write_model(classifier, Preparation())
    run.update_manifest(status="finished")


def test_an_overwrite_that_is_killed_leaves_no_file_of_the_run_before_in_the_new_one(tmp_path: Path) -> None:
    old, folder = tmp_path / "old", tmp_path / "run"
    _finish(open_run(OLD, old))

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(old, folder)

    for _ in every_kill(folder, prepare, lambda: _finish(open_run(NEW, folder, overwrite=True))):
        if (folder / "config.yaml").is_file() and '"clearing"' not in (folder / "manifest.json").read_text():
            continue  # the old run as it was, or the new one as far as it came
        with pytest.raises(UserError, match="deleted the run before"):
            api.load(folder)
        with pytest.raises(UserError, match="deleted the run before"):
            write_report(folder)
        with pytest.raises(UserError, match="deleted the run before"):
            read_config(folder)
        run = open_run(NEW, folder, resume=True)
        assert run.checkpoint() is None
        assert read_history(folder) == []
        with pytest.raises(UserError, match="no such file"):
            api.load(folder)
        _finish(run)
        assert read_history(folder)[0].accuracy == 0.2


def test_a_run_that_is_killed_is_begun_again_or_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in every_kill(folder, lambda: shutil.rmtree(folder, ignore_errors=True), lambda: _finish(open_run(NEW, folder))):
        run = open_run(NEW, folder, resume=True)
        assert (run.checkpoint() is None) == (not (folder / "checkpoints" / "last.safetensors").is_file())
        _finish(run)
        assert read_history(folder)[0].accuracy == 0.2


def test_what_a_kill_left_before_the_first_file_keeps_nobody_out(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with killed_at(2, folder):  # the folder, the temporary file
        open_run(NEW, folder)
    assert [path.name.startswith(".manifest.json.") for path in folder.iterdir()] == [True]
    refuse_occupied(folder)
    refuse_occupied(folder, overwrite=True)


def test_a_model_beside_another_programs_manifest_is_read(tmp_path: Path) -> None:
    _finish(open_run(NEW, tmp_path / "run"))
    elsewhere = tmp_path / "downloads"
    elsewhere.mkdir()
    shutil.copy(tmp_path / "run" / "model.safetensors", elsewhere / "m.safetensors")
    (elsewhere / "manifest.json").write_text('{"name": "an app"}')
    assert api.load(elsewhere / "m.safetensors").classes == ("a", "b")
