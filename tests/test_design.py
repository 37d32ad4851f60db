"""docs/design.md is about this code: its files exist, its levels are those that the imports keep, its walks pass no file twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_imports import LEVELS, _imports, _module

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
ROUND_LOOP = "mpssl_fed/federation/server/rounds.py"
WALKS = {part.splitlines()[0]: re.findall(r"^\d+\. `([^`]+)`", part, re.M) for part in PAGE.split("\n### ")[1:]}


def test_every_file_it_names_exists() -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.[a-z]+)?)`", PAGE)
    assert len(set(named)) > 40
    written_by_a_run = {"checkpoints/", "sites/ID/"}
    missing = [name for name in named if name not in written_by_a_run and not (ROOT / name).exists()]
    assert not missing
    for target in re.findall(r"\]\(([^)h][^)]*)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def test_its_levels_are_those_that_the_imports_keep() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.M)
    assert [int(number) for number, _ in rows] == list(range(1, len(LEVELS) + 1))
    assert [set(re.findall(r"`([a-z_]+)`", rooms)) for _, rooms in rows] == list(LEVELS)


def test_the_rooms_are_those_of_the_package() -> None:
    drawn = PAGE.split("## 4. The house")[1].split("A room imports")[0]
    rooms = {path.name for path in (ROOT / "mpssl_fed").iterdir() if (path / "__init__.py").is_file()}
    assert {room for room in rooms if f"{room}/" not in drawn} == set()


@pytest.mark.parametrize("walk", WALKS)
def test_a_walk_passes_no_file_twice_but_the_round_loop(walk: str) -> None:
    files = WALKS[walk]
    assert len(files) >= 12
    twice = {file for file in files if files.count(file) > 1}
    assert twice <= {ROUND_LOOP}


@pytest.mark.parametrize("walk", WALKS)
def test_the_files_of_a_walk_hang_together(walk: str) -> None:
    """Each imports another file of the walk, or is imported by one, itself or through the front of its room."""
    files = WALKS[walk]
    imports = {file: _imports(ROOT / file) for file in files}

    def known(one: str, other: str) -> bool:
        module = _module(ROOT / other)
        return any(module == name or (name == module.rpartition(".")[0] and name.count(".") == 1) for name in imports[one])

    lost = [file for file in files if not any(known(file, other) or known(other, file) for other in files if other != file)]
    assert not lost


def test_there_are_three_walks() -> None:
    assert len(WALKS) == 3
