"""The wheel is the whole toolkit: built, installed into an empty environment and run outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

HOUSE = Path(__file__).parents[1]
GENERATOR = "mpssl_fed/generators/embedded/glyphs-digits"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout by the declared back end, without a network."""
    out = tmp_path_factory.mktemp("wheel")
    _run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(HOUSE)], out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own: the wheel, and this one's packages as its dependencies (not its editable mpssl_fed)."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet"]
    _run([*pip, "install", "--no-deps", "--no-index", str(wheel)], home)
    own = Path(_run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], home).strip())
    theirs = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (own / "dependencies.pth").write_text("\n".join(theirs) + "\n")  # a .pth is not read for the .pth files in what it names
    return home


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        metadata = next(content.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
        weights = content.read(f"{GENERATOR}/pytorch_model.bin")
    roots = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert roots == {"mpssl_fed", "clients", "server"}
    assert weights == (HOUSE / GENERATOR / "pytorch_model.bin").read_bytes()
    expected = {f"{GENERATOR}/config.json", f"{GENERATOR}/manifest.json", "clients/app.py", "server/app.py"}
    expected |= {f"mpssl_fed/{file.relative_to(HOUSE)}" for file in (HOUSE / "configs").rglob("*.yaml")}
    expected |= {str(file.relative_to(HOUSE)) for file in (HOUSE / "mpssl_fed").rglob("*.py")}
    expected |= {str(file.relative_to(HOUSE)) for file in (HOUSE / "mpssl_fed" / "report" / "templates").iterdir()}
    assert not expected - names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests/", "runs/"))]
    assert "Requires-Dist: torch" in metadata


def test_it_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    program = (
        "import mpssl_fed, clients, server\n"
        "from mpssl_fed.config import config_folder\n"
        "print(mpssl_fed.__file__, clients.__file__, server.__file__, config_folder())"
    )
    for place in _run([str(installed / "bin" / "python"), "-c", program], tmp_path).split():
        assert Path(place).is_relative_to(installed), place
    tiny = ["federation.local_steps=1", "data.test_limit=20", "method.lmo_every=1", "method.batch=4", "method.lmo_batch=4"]
    shown = _run([str(installed / "bin" / "mpssl-fed"), "simulate", "demo", "--sites", "2", "--rounds", "1", *tiny], tmp_path)
    run = tmp_path / "runs" / "demo"
    assert "test accuracy" in shown.splitlines()[-1]
    assert (run / "model.safetensors").is_file()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["generator"]["name"] == "glyphs-digits"
    assert [json.loads(line)["round"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [0, 1]


def _run(command: list[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout
