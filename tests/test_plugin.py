"""The example plug-in, installed as a user would install a package, in a run that uses its loss and its data set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

HOUSE = Path(__file__).parents[1]
TINY = (
    "data.name=digit-turns",
    "data.labels_per_class=2",
    "data.test_limit=100",
    "method={name: null, source: random, loss: barlow-twins, batch: 8, buffer: 1, lambda: 0.01, options: {off_diagonal: 0.01}}",
    "federation.local_steps=2",
)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package and nothing else."""
    folder = tmp_path_factory.mktemp("plugin")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-build-isolation", "--no-deps"]
    _run([*pip, "--no-index", "--target", str(folder), str(HOUSE / "examples" / "plugin")], folder, None)
    return folder


def test_a_run_with_the_loss_and_the_data_set_of_another_package(target: Path, tmp_path: Path) -> None:
    simulate = [
        sys.executable,
        "-m",
        "mpssl_fed.cli",
        "simulate",
        "demo",
        *TINY,
        "--sites",
        "2",
        "--rounds",
        "1",
        "--output",
        "run",
    ]
    said = _run(simulate, tmp_path, target)
    assert "test accuracy" in said
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    labels = json.loads((tmp_path / "run" / "labels.json").read_text())
    assert labels["classes"] == ["0", "90", "180", "270"]
    assert sum(map(sum, labels["sites"].values())) == 2 * 2 * 4
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["sites_answered"] == 2
    assert last["generated"] == 2 * 8


def test_without_the_package_its_names_are_unknown(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mpssl_fed.cli", "simulate", "demo", *TINY, "--output", "run"]
    done = subprocess.run(
        command, cwd=tmp_path, env=_environment(None), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 2
    assert "unknown datasets 'digit-turns'" in done.stderr
    assert "entry point of the group 'mpssl_fed.datasets'" in done.stderr


def _environment(target: Path | None) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return environment | ({} if target is None else {"PYTHONPATH": str(target)})


def _run(command: list[str], folder: Path, target: Path | None) -> str:
    environment = _environment(target)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout
