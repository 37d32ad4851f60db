"""What a run leaves behind, and what is refused rather than overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mpssl_fed.config import Config, load
from mpssl_fed.errors import UserError
from mpssl_fed.runs.model_file import read_model
from mpssl_fed.runs.reader import read_config, read_history
from mpssl_fed.runs.run_directory import RunDirectory, open_run
from mpssl_fed.study.folder import STUDY_FILE

Runner = Callable[..., RunDirectory]


def test_everything_is_there(run_tiny: Runner) -> None:
    run = run_tiny("seed=7", "data.partition={name: dirichlet, alpha: 0.5}")
    config = load(run.folder / "config.yaml")
    assert config.sha256() == run.config.sha256()
    assert config.seed == 7
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["seed"] == 7
    assert manifest["config_sha256"] == config.sha256()
    assert {"python", "torch", "flwr", "mpssl-fed"} <= manifest["versions"].keys()
    assert {"train", "generate", "serialise", "aggregate"} <= manifest["timings"].keys()
    assert manifest["timings"]["train"] == pytest.approx(sum(r.timings["train"] for r in read_history(run.folder)))
    labels = json.loads((run.folder / "labels.json").read_text())
    assert labels["classes"] == [str(digit) for digit in range(10)]
    assert list(labels["sites"]) == ["0", "1", "2"]
    assert [sum(column) for column in zip(*labels["sites"].values(), strict=True)] == [6] * 10  # 2 a class and site
    for name in ("last.safetensors", "last.json", "best.safetensors"):
        assert (run.folder / "checkpoints" / name).is_file()


def test_the_model_file_is_the_last_checkpoint(run_tiny: Runner) -> None:
    run = run_tiny()
    classifier = read_model(run.folder)
    saved = run.checkpoint()
    assert saved is not None
    assert not classifier.training
    assert all(torch.equal(value, saved.weights[key]) for key, value in classifier.shared_state().items())
    assert classifier(torch.zeros(2, classifier.channels, classifier.size, classifier.size)).shape == (2, 10)


def test_a_run_that_exists_is_refused_unless_told(run_tiny: Runner) -> None:
    run = run_tiny()
    with pytest.raises(UserError, match=r"run directory .* exists; resume=True continues it, overwrite=True deletes what it wrote"):
        run_tiny()
    assert run_tiny(overwrite=True).run_id != run.run_id


def test_a_folder_that_is_no_run_is_never_deleted(tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for flags in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(UserError, match="is not a run, so nothing here deletes it"):
            open_run(tiny(), tmp_path, **flags)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UserError, match="is a file, want a folder"):
        open_run(tiny(), tmp_path / "thesis.tex", overwrite=True)


def test_a_study_is_never_continued_or_deleted_as_a_run(run_tiny: Runner) -> None:
    run = run_tiny("federation.rounds=1")
    (run.folder / STUDY_FILE).write_text("grid: {}\n")  # as `make demo` leaves it: a study with one of its runs at the top
    for flags in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(UserError, match=r"holds a study with all its runs; choose another by output=DIR"):
            run_tiny("federation.rounds=1", **flags)
    assert (run.folder / "model.safetensors").is_file()


def test_an_empty_folder_is_used(tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert open_run(tiny(), tmp_path / "run").run_id == json.loads((tmp_path / "run" / "manifest.json").read_text())["run_id"]


def test_what_is_not_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        read_config(tmp_path)
    with pytest.raises(UserError, match=r"model.safetensors: no such file.*resume=True"):
        read_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    with pytest.raises(UserError, match="not a model of this toolkit"):
        read_model(tmp_path)


def test_a_broken_checkpoint_names_the_file_and_the_cure(run_tiny: Runner) -> None:
    run = run_tiny()
    (run.folder / "checkpoints" / "last.safetensors").write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"last.safetensors: not a checkpoint .*overwrite=True"):
        run_tiny(resume=True)
