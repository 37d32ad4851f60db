"""`mpssl-fed deploy` as a user runs it: the weights of a simulation, no connection off loopback, nothing left behind.

In surroundings as users have them: a list of two hospitals' images and a generator by paths from the folder they stand in, behind
proxies (that answer nothing), with temporary files in a deep folder.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file

import mpssl_fed
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.generators.biggan import embedded_folder
from mpssl_fed.runs.reader import read_history
from tests.patience import PATIENCE_S
from tests.real.sites import QUIET, TINY, equal
from tests.test_environment import DEAD_PROXIES

DEEP = "tmp/" + "long" * 25

CONFIG = TINY | {
    "data": {"name": "image-csv", "root": "photos/list.csv", "labels_per_class": 2, "partition": {"name": "column"}},
    "generator": {"name": "folder", "path": "glyphs"},
    "method": {"name": "mp-ssl", "batch": 4, "lmo_batch": 4, "lmo_every": 1, "refresh_every": 1, "buffer": 1},
    "federation": TINY["federation"] | {"rounds": 2},
}


def no_route() -> list[str]:
    """Return what a command is prefixed with so that it has loopback and no other network; empty where that needs rights."""
    prefix = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        return []
    return prefix


def write_photos(root: Path) -> None:
    """Write digits of two classes, of people at two hospitals, and the list that names them."""
    digits, lines = load_dataset("mnist-5k").train, ["path;label;subject;site;split"]
    (root / "scans").mkdir(parents=True)
    for label in (3, 8):
        for number, i in enumerate((digits.y == label).nonzero().flatten().tolist()[:16]):
            Image.fromarray(digits.x[i, 0].numpy()).save(root / "scans" / f"{i}.png")
            site, split = ("Lyon", "Basel")[number % 2], "train" if number < 6 else "test"
            lines.append(f"scans/{i}.png;number {label}, written;{site}-{number // 4}-{split};{site};{split}")
    (root / "list.csv").write_text("\n".join(lines), encoding="utf-8")


def mpssl(*words: str) -> list[str]:
    """Return the command line of this installation."""
    return [sys.executable, "-m", "mpssl_fed.cli", *words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment's run, config, temporary folder and output."""
    here = tmp_path_factory.mktemp("deploy")
    (here / DEEP).mkdir(parents=True)
    shutil.copytree(embedded_folder("glyphs-digits"), here / "glyphs")
    write_photos(here / "photos")
    (here / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    environment = {**os.environ, **QUIET, "TMPDIR": str(here / DEEP), "HOME": str(here), "DEPLOY_TEST": str(here), **DEAD_PROXIES}
    command = [*no_route(), *mpssl("deploy", "config.yaml", "--sites", "2", "--output", "run")]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    (here / "output").write_text(done.stdout + done.stderr, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return here


def test_equals_a_simulation(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run = mpssl_fed.simulate(CONFIG, "federation.sites=2", f"output.dir={tmp_path / 'run'}")
    assert equal(load_file(folder / "run" / "model.safetensors"), load_file(run.folder / "model.safetensors"))
    ours, theirs = read_history(folder / "run"), run.history
    assert [record.accuracy for record in ours] == [record.accuracy for record in theirs]
    assert [record.train_loss for record in ours] == [record.train_loss for record in theirs]
    held = json.loads((run.folder / "labels.json").read_text(encoding="utf-8"))
    assert held["names"] == ["Basel", "Lyon"]
    assert all(min(counts) > 0 for counts in held["sites"].values())


def test_run_directory_and_progress(folder: Path) -> None:
    manifest = json.loads((folder / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "finished"
    output = (folder / "output").read_text(encoding="utf-8")
    assert "round 1/2" in output
    assert "trusted" in output  # one user for daemon and SuperNode is said aloud
    assert stat.S_IMODE((folder / "run" / "sites").stat().st_mode) == 0o700


def test_nothing_is_left(folder: Path) -> None:
    assert list((folder / DEEP).iterdir()) == []
    mark = f"DEPLOY_TEST={folder}".encode()
    alive = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                alive.append((process / "cmdline").read_bytes())
        except OSError:
            continue
    assert alive == []


def test_no_secret_in_the_run_directory(folder: Path) -> None:
    files = [path for path in (folder / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert b"PRIVATE KEY" not in content, path
        if path.suffix == ".log" and path.name.startswith("daemon"):
            assert b".png" not in content
            assert b"labels.csv" not in content
        assert b"Basel-" not in content  # no subject either


def test_no_network_was_needed(folder: Path) -> None:
    """The whole deployment ran in a network namespace without a route."""
    if not no_route():
        pytest.skip("network namespaces need root here")
    assert (folder / "run" / "model.safetensors").is_file()
