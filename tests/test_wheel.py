"""The wheel is the whole toolkit: built, installed into an empty environment and run outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

HOUSE = Path(__file__).parents[1]
GENERATOR = "mpssl_fed/generators/embedded/glyphs-digits"
APP = "mpssl_fed/flower_app"
OF_THE_APP = sorted(
    str(file.relative_to(HOUSE))
    for folder, kind in (("clients", "*.py"), ("server", "*.py"), ("configs", "*.yaml"))
    for file in (HOUSE / folder).rglob(kind)
)


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
    for script in entry_points(group="console_scripts"):  # those of the dependencies, which pip would have written here
        if script.dist is not None and script.dist.name == "flwr":
            program = f"#!{python}\nimport sys\nfrom {script.module} import {script.attr}\nsys.exit({script.attr}())\n"
            (home / "bin" / script.name).write_text(program)
            (home / "bin" / script.name).chmod(0o755)
    return home


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        metadata = next(content.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
        weights = content.read(f"{GENERATOR}/pytorch_model.bin")
    roots = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert roots == {"mpssl_fed"}  # a top-level `server` would be everyone's
    assert weights == (HOUSE / GENERATOR / "pytorch_model.bin").read_bytes()
    expected = {f"{GENERATOR}/config.json", f"{GENERATOR}/manifest.json", f"{APP}/pyproject.toml"}
    expected |= {f"{APP}/{file}" for file in OF_THE_APP}
    expected |= {f"mpssl_fed/dossier/docs/{file}" for file in ("privacy.md", "dataflow.svg")}
    for kind in ("py", "html", "css", "js"):
        expected |= {str(file.relative_to(HOUSE)) for file in (HOUSE / "mpssl_fed").rglob(f"*.{kind}")}
    expected |= {str(file.relative_to(HOUSE)) for file in (HOUSE / "mpssl_fed" / "report" / "templates").iterdir()}
    assert not expected - names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests/", "runs/"))]
    assert "Requires-Dist: torch" in metadata


def test_it_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    program = (
        "import importlib.util as i, mpssl_fed, mpssl_fed.flower_app.server.app as server\n"
        "from mpssl_fed.config import config_folder\n"
        "print(mpssl_fed.__file__, server.__file__, config_folder(), i.find_spec('clients'), i.find_spec('server'))"
    )
    *places, clients, server = _run([str(installed / "bin" / "python"), "-c", program], tmp_path).split()
    assert all(Path(place).is_relative_to(installed) for place in places), places
    assert (clients, server) == ("None", "None")
    tiny = ["federation.local_steps=1", "data.test_limit=20", "method.lmo_every=1", "method.batch=4", "method.lmo_batch=4"]
    shown = _run([str(installed / "bin" / "mpssl-fed"), "simulate", "demo", "--sites", "2", "--rounds", "1", *tiny], tmp_path)
    run = tmp_path / "runs" / "demo"
    assert "test accuracy" in shown.splitlines()[-1]
    assert (run / "model.safetensors").is_file()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["generator"]["name"] == "glyphs-digits"
    assert [json.loads(line)["round"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [0, 1]


STUDY = """
base: {data: {labels_per_class: 1, test_limit: 50}, model: {name: pixels}, federation: {sites: 2, rounds: 1, local_steps: 1}}
grid: {method.name: [base]}
seeds: 1
"""


def test_a_study_runs_from_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(STUDY)
    _run([str(installed / "bin" / "mpssl-fed"), "study", "few.yaml", "--output", "study"], tmp_path)
    results = (tmp_path / "study" / "results.csv").read_text().splitlines()
    assert [line.count("finished") for line in results] == [0, 1]


@pytest.mark.slow
def test_a_deployment_runs_from_it(installed: Path, tmp_path: Path) -> None:
    tiny = ["model.name=pixels", "method.name=base", "federation.local_steps=1", "data.test_limit=20", "federation.rounds=1"]
    said = _run([str(installed / "bin" / "mpssl-fed"), "deploy", "demo", *tiny, "--sites", "2", "--output", "deployed"], tmp_path)
    assert "accuracy" in said.splitlines()[-1]
    rounds = [json.loads(line) for line in (tmp_path / "deployed" / "metrics.jsonl").read_text().splitlines()]
    assert [(one["round"], one["sites_answered"]) for one in rounds] == [(0, 0), (1, 2)]


BUILD = """
import io, sys, zipfile
from pathlib import Path
from flwr.cli.build import build_fab_from_disk
from mpssl_fed import config
from mpssl_fed.config import app_folder
from mpssl_fed.deployment.superlink import write_bundle

bundle = write_bundle(Path("bundle"), config.load("demo"))
for folder in (app_folder(), bundle):
    fab = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(folder)))
    print(*(name for name in fab.namelist() if not name.endswith("/")))
    fab.extractall(f"unpacked-{folder.name}")
"""
"""Flower's own builder on the app that ``flwr run`` takes from the wheel, and on what ``submit`` and ``deploy`` make of it."""

OPEN = """
import sys; sys.path.insert(0, sys.argv[1])
import clients.app, server.app, mpssl_fed
print(clients.app.__file__, server.app.__file__, mpssl_fed.__file__)
"""


def test_the_flower_app_is_built_from_it(installed: Path, tmp_path: Path) -> None:
    python = str(installed / "bin" / "python")
    app, bundle = _run([python, "-W", "ignore", "-c", BUILD], tmp_path).splitlines()
    own = {".info/CONTENT", "pyproject.toml", "LICENSE"}
    assert set(app.split()) == own | set(OF_THE_APP)
    assert set(bundle.split()) == own | {name for name in OF_THE_APP if name.endswith(".py")} | {"configs/run.yaml"}
    for name in ("unpacked-flower_app", "unpacked-bundle"):
        client, server, toolkit = _run([python, "-c", OPEN, str(tmp_path / name)], tmp_path).split()
        assert {Path(client).parents[1], Path(server).parents[1]} == {tmp_path / name}
        assert Path(toolkit).is_relative_to(installed)


def _run(command: list[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout
