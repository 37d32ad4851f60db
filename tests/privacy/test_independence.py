"""The parts of the privacy core stand alone, so that each can be read and audited alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mpssl_fed.privacy

FOLDER = Path(mpssl_fed.privacy.__file__).parent
PARTS = {
    "noise": {"noise"},
    "accounting": {"accounting"},
    "ledger": {"ledger", *(f"ledger_{part}" for part in ("books", "errors", "files", "head", "records", "rows", "store"))},
    "policy": {"policy", "policy_file", "policy_settings", "policy_table"},
    "egress": {"egress"},
}


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(("part", "modules"), PARTS.items())
def test_a_part_imports_no_other(part: str, modules: set[str]) -> None:
    foreign = {f"mpssl_fed.privacy.{path.stem}" for path in FOLDER.glob("*.py")} - {f"mpssl_fed.privacy.{name}" for name in modules}
    for name in modules:
        assert not imported(FOLDER / f"{name}.py") & foreign


def test_opacus_is_imported_by_accounting_alone_and_flower_and_ray_by_none() -> None:
    for path in FOLDER.rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"flwr", "ray"}, path
        assert "opacus" not in roots or path.stem == "accounting", path
