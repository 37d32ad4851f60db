"""Each benchmark starts by the command that its first lines give, and takes the options named there."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
COMMANDS = sorted(file.stem for file in FOLDER.glob("*.py") if "ArgumentParser" in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_its_command_starts(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As a module: as a file it would find the package of that name that Opacus brings."""
    page = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    told = re.search(rf"^    python -m benchmarks\.{name}( .*)?$", page, re.MULTILINE)
    assert told is not None
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)  # one that another imported
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    taken = re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    assert set(re.findall(r"--[a-z-]+", told[0])) <= set(taken)


def test_no_benchmark_is_told_to_run_as_a_file() -> None:
    for page in [*FOLDER.glob("*.py"), *FOLDER.parent.glob("*.md"), *FOLDER.parent.glob("docs/**/*.md")]:
        assert not re.search(r"python benchmarks/\w+\.py", page.read_text(encoding="utf-8")), page
