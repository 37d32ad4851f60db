"""The reference pages are those of this code, and what the README names exists."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import typer.main

from mpssl_fed import cli
from mpssl_fed.config import find
from mpssl_fed.study.grid import load_study

ROOT = Path(__file__).parents[1]


def test_reference_pages_are_fresh() -> None:
    done = subprocess.run([sys.executable, "tools/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_names_real_commands_files_and_configs() -> None:
    text = (ROOT / "README.md").read_text()
    commands = typer.main.get_command(cli.build()).commands
    for name in re.findall(r"mpssl-fed ([a-z-]+)", text):
        assert name in commands, name
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|ipynb))`", text):
        assert (ROOT / name).is_file() or (ROOT / "mpssl_fed" / name).is_file(), name
    for name in re.findall(r"(?:simulate|study|plan) ((?:[a-z-]+/)?[a-z-]+)(?:\s|$)", text):
        if name not in ("demo",):
            assert find(name).is_file()
    for target in re.findall(r"\]\(([^)h][^)]*)\)", text):
        assert (ROOT / target).exists(), target


def test_study_files_on_the_page_are_studies(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "studies.md").read_text()
    blocks = re.findall(r"(?:^    (?!mpssl-fed).*\n)+", page, re.M)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yaml").write_text(textwrap.dedent(block))
        plan = load_study(tmp_path / f"{number}.yaml")
        assert plan.cells
        assert len(plan.primary()) == (3, 0)[number]


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^ *`?make ([a-z-]+)", (ROOT / "README.md").read_text(), re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_fault_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    rows = re.findall(r"^\| .*", page.split("## Faults")[1].split("\n## ")[0], re.M)[1:]
    assert len(rows) >= 15
    for row in rows:
        named = re.findall(r"`((?:[a-z]+/)?test_[a-z_]+\.py)::(test_[a-z_]+)`", row.split("|")[-2])
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / "real" / file).read_text(), f"{file}::{test}"
