"""Help, version and completion; and a misspelt word is refused before anything heavy is imported."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

import mpssl_fed
from mpssl_fed.cli import build, command
from tests.cli.calls import Caller
from tests.patience import PATIENCE_S

HEAVY = {"torch", "flwr", "ray", "opacus", "torchvision", "matplotlib", "scipy"}
IMPORTED = """
import atexit, sys
heavy = {heavy!r}
atexit.register(lambda: print("imported", sorted(heavy & set(sys.modules)), file=sys.stderr))
from mpssl_fed.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("simualte demo", "No such command 'simualte'"),
        ("simulate demo federation.roundss=3", "Did you mean 'rounds'?"),
        ("simulate demo method.name=mpssl", "unknown method.name 'mpssl'"),
        ("simulate demo --rounds many", "'many' is not a valid integer"),
        ("simulate demmo", "Did you mean 'demo'?"),
        ("study demo methd.name=base --dry-run", "Did you mean 'method.name'?"),
        ("study dmo", "Did you mean 'demo'?"),
        ("data demo data.lables_per_class=3", "Did you mean 'labels_per_class'?"),
        ("privacy plan demo privacy.epsilonn=3", "Did you mean 'epsilon'?"),
        ("policy check policies/site demo sead=3", "Did you mean 'seed'?"),
        ("deploy demo federation.site=3", "Did you mean 'sites'?"),
        ("audit runs/x --what membershp", "Did you mean 'membership'?"),
    ],
)
def test_a_misspelt_word_is_refused_before_anything_heavy_is_imported(words: str, said: str, tmp_path: Path) -> None:
    program = [sys.executable, "-c", IMPORTED.format(heavy=HEAVY), *words.split()]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=os.environ | {"COLUMNS": "200"}
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.endswith("imported []\n"), done.stderr


def test_a_command_that_is_near_is_suggested_once(call: Caller) -> None:
    message = call.refused("simualte")
    assert message.count("'simulate'") == 1


def test_version_and_help_in_both_forms(call: Caller) -> None:
    assert call("--version").out == f"mpssl-fed {version('mpssl-fed')}\n"
    assert mpssl_fed.__version__ == version("mpssl-fed")
    with pytest.raises(AttributeError, match="no attribute 'versoin'"):
        mpssl_fed.versoin  # type: ignore[attr-defined]  # noqa: B018
    for words in ((), ("simulate",), ("site",), ("site", "run"), ("ledger", "show")):
        assert call(*words, "-h") == call(*words, "--help")
        assert call(*words, "-h").status == 0


def test_brackets_in_a_help_text_are_shown(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    shown = call("study", "--help").out
    assert "key.path=[a,b]: compares values." in shown
    assert "CLASS/*.png" in call("evaluate", "--help").out

    def texts(one: click.Command) -> list[str]:
        own = [one.help or "", *(getattr(parameter, "help", None) or "" for parameter in one.params)]
        return own + [text for child in getattr(one, "commands", {}).values() for text in texts(child)]

    raw = [text for text in texts(click_of_build()) if "[" in text]
    escaped = [text for text in texts(command()) if "[" in text]
    assert len(raw) == len(escaped) > 1
    assert all(text.replace("\\[", "[") in raw for text in escaped)


def click_of_build() -> click.Command:
    """Return the command line as docs/reference-cli.md tells it."""
    import typer.main

    return typer.main.get_command(build())


def test_completion_is_offered() -> None:
    program = [sys.executable, "-c", "from mpssl_fed.cli import main; main()"]
    asked = {"_MPSSL_FED_COMPLETE": "complete_bash", "COMP_WORDS": "mpssl-fed simu", "COMP_CWORD": "1"}
    done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=os.environ | asked)
    assert done.stdout.split() == ["simulate"], done.stderr
    options = [name for parameter in command().params for name in parameter.opts]
    assert "--install-completion" in options


def test_no_cell_of_a_reference_page_is_cut() -> None:
    for page in (Path(__file__).parents[2] / "docs").glob("reference-*.md"):
        width = 0
        for line in page.read_text().splitlines():
            cells = line.replace("\\|", "").count("|")
            if set(line) <= set("|-") and line:
                width = cells
            elif line.startswith("|") and width:
                assert cells == width, line
            elif not line.startswith("|"):
                width = 0
    assert "CLASS/*.png\\|jpg\\|" in (Path(__file__).parents[2] / "docs" / "reference-cli.md").read_text()


@pytest.mark.parametrize("file", sorted((Path(mpssl_fed.__file__).parent / "cli").glob("*.py")), ids=lambda file: file.stem)
def test_commands_read_a_config_before_they_import_what_runs_it(file: Path) -> None:
    """In each function that loads a config, only light modules of ours are imported above that line."""
    light = (
        "mpssl_fed.config",
        "mpssl_fed.errors",
        "mpssl_fed.cli",
        "mpssl_fed.runs.reader",
        "mpssl_fed.api",
        "mpssl_fed.study.grid",
    )
    for function in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)):
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and _name(node) in ("load", "load_study")]
        if not calls or function.name.startswith("_"):
            continue
        above = [
            node for node in ast.walk(function)
            if isinstance(node, ast.ImportFrom) and node.lineno < min(call.lineno for call in calls)
        ]  # fmt: skip
        assert all(str(node.module).startswith(light) or node.module == "mpssl_fed" for node in above), function.name


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
