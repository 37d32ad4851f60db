"""A full disk at the server: one message that names the file, a status that is not 0, and a checkpoint that is whole."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed.runs import checkpoint
from mpssl_fed.runs.reader import read_history, read_manifest
from tests.patience import PATIENCE_S, wait_for
from tests.real.sites import alive, deploy, fill, small_disk

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")]
ROUNDS = {"sites": 2, "rounds": 3, "local_steps": 2, "join_deadline_s": PATIENCE_S, "deadline_s": PATIENCE_S}


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name leaves room for a socket's."""
    return tmp_path_factory.mktemp("full")


@pytest.fixture
def disk(here: Path) -> Iterator[Path]:
    with small_disk(here / "disk", "3m") as folder:
        yield folder


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return exit status and output of a deployment."""
    output, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output


def test_disk_full_at_the_server_in_the_middle(here: Path, disk: Path) -> None:
    """Not one byte is left after round 1, not even for the manifest; with room again the run goes on."""
    running, run = deploy(here, ROUNDS, "--output", str(disk / "run")), disk / "run"
    wait_for(lambda: len(read_history(run)) > 1 or running.poll() is not None, "round 1")
    fill(disk)
    status, output = ended(running)
    assert status == 2, output
    said = output.splitlines()[-1]
    assert said.startswith("error: the run ended as 'finished:failed'")
    assert f"{run}/checkpoints/last.safetensors: not written, the disk is full" in said
    assert "Traceback" not in output
    assert not alive(here)
    good = checkpoint.load(run / "checkpoints" / "last.safetensors")
    assert good is not None
    assert good.round >= 1
    (disk / "ballast").unlink()
    status, output = ended(deploy(here, ROUNDS, "--output", str(run), "--resume"))
    assert status == 0, output
    assert [record.number for record in read_history(run)] == [0, 1, 2, 3]
    assert read_manifest(run)["status"] == "finished"


def test_disk_full_at_the_server_from_the_start(here: Path) -> None:
    """64 KiB hold a manifest and no model: the manifest says why the run failed."""
    with small_disk(here / "disk", "64k") as disk:
        status, output = ended(deploy(here, ROUNDS, "--output", str(disk / "run")))
        assert status == 2, output
        said = output.splitlines()[-1]
        assert f"{disk}/run/checkpoints/last.safetensors: not written, the disk is full" in said
        manifest = read_manifest(disk / "run")
        assert manifest["status"] == "failed"
        assert "the disk is full" in manifest["error"]
        assert not alive(here)
