"""The bundle that Flower ships to nodes holds the two apps and their configs, and nothing that would shadow the toolkit."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from mpssl_fed import config as configs
from mpssl_fed.federation.engines.flower_run import NUMBERS
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's way of calling pathspec
HOUSE = Path(__file__).parents[1]
FLOWERS_OWN = {".info/CONTENT"}
TEXTS = {"README.md", "LICENSE"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built by Flower's own function, as ``flwr build`` and ``flwr run`` do, from a checkout without a virtual environment.

    Flower walks through all files below, and an environment has some ten thousands.
    """
    ignore = shutil.ignore_patterns(".venv", "venv", ".git", ".*_cache", "__pycache__", "runs", "data")
    checkout = shutil.copytree(HOUSE, tmp_path_factory.mktemp("clone") / "mpssl-fed", ignore=ignore)
    return zipfile.ZipFile(io.BytesIO(build_fab_from_disk(checkout)))


def test_exactly_the_apps_and_configs(bundle: zipfile.ZipFile) -> None:
    names = {name for name in bundle.namelist() if not name.endswith("/")} - FLOWERS_OWN - TEXTS
    expected = {str(file.relative_to(HOUSE)) for folder in ("clients", "server") for file in (HOUSE / folder).rglob("*.py")}
    expected |= {str(file.relative_to(HOUSE)) for file in (HOUSE / "configs").rglob("*.yaml")}
    assert names == expected | {"pyproject.toml"}


def test_the_unpacked_apps_find_the_installed_toolkit(bundle: zipfile.ZipFile, tmp_path: Path) -> None:
    bundle.extractall(tmp_path)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import clients.app, server.app, mpssl_fed\n"
        "print(clients.app.__file__, server.app.__file__, mpssl_fed.__file__, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    client, server, toolkit = map(Path, done.stdout.splitlines())
    assert client.is_relative_to(tmp_path)
    assert server.is_relative_to(tmp_path)
    assert not toolkit.is_relative_to(tmp_path)


def test_the_run_config_has_what_its_reader_knows(bundle: zipfile.ZipFile, tmp_path: Path) -> None:
    bundle.extractall(tmp_path)
    app = tomllib.loads((tmp_path / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["config"].keys() == {"config", "overrides", *NUMBERS}
    assert not any(app["config"][key] for key in NUMBERS)
    assert configs.load(tmp_path / app["config"]["config"]).method.name == "mp-ssl"
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "clients.app:app"}
