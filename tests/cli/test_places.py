"""Where a command stands, reads and writes: what users of shells mean by a place, and what must never be one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mpssl_fed.environment import expanded
from mpssl_fed.files import write_atomic
from mpssl_fed.runs import checkpoint
from mpssl_fed.runs.model_file import read_model
from tests.cli.calls import Caller
from tests.cli.conftest import PHOTOS

AS_NOBODY = pytest.mark.skipif(os.geteuid() != 0, reason="takes on another user's rights")


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("place", ["train/run", "train/cat/run", "test/run", "train/cat/../new"])
@pytest.mark.parametrize("command", ["simulate", "deploy", "study"])
def test_no_run_is_written_among_the_images(command: str, place: str, call: Caller, photos: Path) -> None:
    before = tree(photos)
    own = PHOTOS if command != "study" else [word for word in PHOTOS if not word.startswith("method")]
    message = call.refused(command, "demo", f"data.root={photos}", *own, "--output", photos / place)
    assert "lies among the images" in message
    assert "--output DIR" in message
    assert tree(photos) == before
    assert call("data", "demo", f"data.root={photos}", *PHOTOS, "--plot", photos.parent / "labels.png").status == 0


def test_the_home_folder_is_found_where_the_shell_leaves_it(
    call: Caller, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert call("simulate", "demo", f"data.root={photos}", *PHOTOS, "--output=~/run").status == 0
    assert (tmp_path / "home" / "run" / "model.safetensors").is_file()
    assert not Path("~").exists()
    assert "exists" in call.refused("simulate", "demo", f"data.root={photos}", *PHOTOS, "output.dir=~/run")
    assert expanded("a~b") == Path("a~b")


def test_a_folder_that_is_gone_is_said_to_be(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for words in (("simulate", "demo"), ("data", "demo"), ("doctor",), ("study", "demo", "--dry-run"), ("privacy", "plan", "demo")):
        assert "the folder that you are in is gone" in call.refused(*words)
    for words in (("--version",), ("--help",)):
        assert call(*words).status == 0


def test_the_users_umask_counts(tmp_path: Path) -> None:
    modes = {}
    for mask in (0o077, 0o022):
        before = os.umask(mask)
        try:
            modes[mask] = stat.S_IMODE(write_atomic(tmp_path / "file", b"x").stat().st_mode)
        finally:
            os.umask(before)
    assert modes == {0o077: 0o600, 0o022: 0o644}


def test_a_place_that_cannot_be_written_is_named_and_no_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long") as error:
        write_atomic(tmp_path / ("x" * 300), b"")
    assert error.value.filename == str(tmp_path / ("x" * 300))


@AS_NOBODY
def test_a_model_that_may_not_be_read_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "model.safetensors").chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o111)
    os.seteuid(65534)
    try:
        for read in (read_model, checkpoint.load):
            with pytest.raises(PermissionError):
                read(tmp_path / "model.safetensors")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(("root", "hint"), [("photos/train", "data.root={}/photos"), ("upper", "Rename {}/upper/Train")])
def test_the_folder_that_was_meant_is_named(root: str, hint: str, call: Caller, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "upper" / "Train").mkdir(parents=True)
    assert hint.format(tmp_path) in call.refused("data", "demo", f"data.root={tmp_path / root}", *PHOTOS)


def test_an_export_never_replaces_a_file_of_its_run(call: Caller, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    assert call("simulate", "demo", f"data.root={photos}", *PHOTOS, "--output", "run").status == 0
    Path("link.pt2").symlink_to("run/model.safetensors")
    Path("hard.pt2").hardlink_to("run/model.safetensors")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    for out in ("run/model.safetensors", "run/config.yaml", "run/checkpoints/last.safetensors", "link.pt2", "hard.pt2"):
        assert "is a file of the run itself" in call.refused("export", "run", "--out", out, "--overwrite")
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    for words in (("predict", "run", ""), ("predict", "", "x.png"), ("report", ""), ("audit", ""), ("evaluate", "run", "")):
        assert "is empty; is a variable of your shell not set?" in call.refused(*words)
    assert "--out is empty" in call.refused("export", "run", "--out", "")


def test_a_superlink_without_its_keys_is_not_started(call: Caller, tmp_path: Path) -> None:
    assert "has no ca.crt" in call.refused("server", "--keys", tmp_path, "--database", tmp_path / "db.sqlite")


def test_a_sheet_has_a_largest_size(call: Caller, tmp_path: Path) -> None:
    words = ("--classes", "A", "--out", tmp_path / "sheet.png")
    assert "at most 1000" in call.refused("generate", "--per-class", 10**9, *words)
