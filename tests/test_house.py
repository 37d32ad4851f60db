"""The measures of a house that a stranger can find his way in: sizes of files, folders and signatures, and no circle of imports."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_imports import FILES, HOUSE, PACKAGE, _imports, _module

MOST_LINES, MEDIAN_LINES, MOST_FILES, MOST_PARAMETERS = 350, 100, 24, 6
TESTS = sorted((HOUSE / "tests").rglob("*.py"))
KEPT = (HOUSE / "benchmarks" / "results", HOUSE / "tests" / "fixtures")
"""Folders of data, not of code: a result each time that something was measured, and what an old version wrote."""


def _length(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("file", [*FILES, *TESTS], ids=lambda file: str(file.relative_to(HOUSE)))
def test_no_file_is_long(file: Path) -> None:
    assert _length(file) <= MOST_LINES


def test_most_files_of_the_package_fit_on_a_page() -> None:
    assert statistics.median(map(_length, PACKAGE.rglob("*.py"))) <= MEDIAN_LINES


def test_no_folder_is_crowded() -> None:
    roots = [PACKAGE, *(HOUSE / name for name in ("clients", "server", "tests", "benchmarks", "tools", "docs", "deploy"))]
    folders = [folder for root in roots for folder in (root, *root.rglob("*")) if folder.is_dir()]
    counts = {
        str(folder.relative_to(HOUSE)): sum(file.is_file() for file in folder.iterdir())
        for folder in folders
        if folder.name != "__pycache__" and not any(folder == kept or kept in folder.parents for kept in KEPT)
    }
    assert len(counts) > 30
    assert {name: n for name, n in counts.items() if n > MOST_FILES} == {}


def _long_signatures(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            named = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs) if one.arg not in ("self", "cls")]
            if len(named) > MOST_PARAMETERS and not _is_command(file, node):
                yield f"{_module(file)}.{node.name}: {', '.join(named)}"


def _is_command(file: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it is a command of the command line, whose options are its parameters."""
    return "cli" in file.parts and any("command(" in ast.unparse(one) for one in node.decorator_list)


def test_no_function_takes_more_than_six_parameters() -> None:
    assert [said for file in FILES for said in _long_signatures(file)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count."""
    imports = {_module(file): _imports(file) & {_module(other) for other in FILES} - {_module(file)} for file in FILES}
    left = {name: {other for other in found if not _is_front(other)} for name, found in imports.items() if not _is_front(name)}
    while free := [name for name, found in left.items() if not found & left.keys()]:
        for name in free:
            del left[name]
    assert sorted(left) == []


def _is_front(module: str) -> bool:
    """Whether it is a package's own file, which ``import package.module`` runs before the module."""
    return (HOUSE / Path(*module.split("."))).is_dir()


def test_a_study_runs_without_its_report() -> None:
    runs = [file for file in (PACKAGE / "study").rglob("*.py") if "report" not in file.parts]
    assert len(runs) > 20
    assert {_module(file) for file in runs if any(name.startswith("mpssl_fed.study.report") for name in _imports(file))} == set()
