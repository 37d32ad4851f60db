"""README.md and docs/*.md are done as they say: every command and every Python block, in order, in a fresh folder a page."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import mpssl_fed
from mpssl_fed.environment import SWITCHES
from mpssl_fed.runs.reader import RunReader, default_folder
from tests.documents.drawn_cells import cells_folder
from tests.documents.known import (
    COMMANDS_ELSEWHERE,
    FLOORS,
    LIGHT,
    OWN_TEST,
    SECTIONS_ELSEWHERE,
    SLOW_ALONE,
    STANDS_FOR,
    WANTS,
    in_its_place,
)
from tests.documents.reading import PAGES, ROOT, Step, inline, program, steps
from tests.documents.spelling import misspelt
from tests.shapes import shapes_folder

Cli = Callable[..., tuple[int, str, str]]
TRAINS = ("simulate", "deploy", "study")
OF_BASH = ("eval",)
SECONDS = 3600


def here(page: str) -> list[Step]:
    """Return what is run of a page."""
    return [
        step
        for step in steps(page)
        if step.kind != "file"
        and (page, step.section) not in SECTIONS_ELSEWHERE
        and (step.kind == "python" or (page, step.text) not in COMMANDS_ELSEWHERE)
        and not lacking(step)
    ]


def lacking(step: Step) -> list[str]:
    """Return the packages of an extra that a step wants and that are not installed here."""
    wanted = [name for (page, word), names in WANTS.items() if page == step.page and word in step.text for name in names]
    return [name for name in wanted if find_spec(name) is None]


def unknown(step: Step, words: list[str]) -> str | None:
    """Return why a step that is run cannot be: a program that nothing stands for, or training whose end no floor holds."""
    if step.text in STANDS_FOR:
        words = shlex.split(in_its_place(step.text))
    elif program(step.text) not in ("mpssl-fed", *OF_BASH):
        return f"'{program(step.text)}' is neither run, nor replaced, nor excused: an entry of tests/documents/known.py is missing"
    trains = words[:1] == ["mpssl-fed"] and words[1] in TRAINS and "--dry-run" not in words
    return f"FLOORS has no accuracy for '{step.text}'" if trains and (step.page, step.text) not in FLOORS else None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_replaced_or_excused(page: str) -> None:
    faults = [(step, unknown(step, shlex.split(step.text))) for step in here(page) if step.kind == "command"]
    assert [f"{step.where}: {fault}" for step, fault in faults if fault] == []


def test_no_entry_is_stale() -> None:
    found = [step for page in PAGES for step in steps(page) if step.kind == "command"]
    commands = {(step.page, step.text) for step in found}
    assert SECTIONS_ELSEWHERE.keys() <= {(step.page, step.section) for step in found}
    assert COMMANDS_ELSEWHERE.keys() <= commands
    assert FLOORS.keys() <= {(step.page, step.text) for page in PAGES for step in here(page)}
    assert OWN_TEST.keys() <= set(PAGES)
    assert all(any(word in step.text for step in steps(page) if step.kind != "file") for page, word in WANTS)
    assert STANDS_FOR.keys() <= {text for _, text in commands}


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_on_the_pages_exist(page: str) -> None:
    """Also those inside sentences and tables, with whatever placeholders they have."""
    said = [step.text for step in steps(page) if step.kind == "command"]
    said += [code for code in inline(page) if code.startswith("mpssl-fed ")]
    faults = [(text, fault) for text in said if (fault := misspelt(text))]
    assert faults == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("mpssl-fed predict RUN photo.png --json", None), ("mpssl-fed simulat demo", "simulat"), ("pip install x", None),
        ("mpssl-fed ledger sho x", "sho"), ("mpssl-fed site node --sever S", "--sever"), ("mpssl-fed", None),
        ("mpssl-fed simulate demo && mpssl-fed reprot runs/demo", "reprot"), ('eval "$(mpssl-fed docter --env)"', "docter"),
    ],
)  # fmt: skip
def test_a_misspelt_command_is_found(text: str, fault: str | None) -> None:
    assert misspelt(text) == fault


def test_a_new_command_needs_an_entry() -> None:
    new = steps("README.md", "# A\n\n    docker run it\n\n```sh\nmpssl-fed simulate demo\nmpssl-fed doctor # all\n```\n")
    faults = [unknown(step, shlex.split(step.text)) for step in new]
    assert [bool(fault) for fault in faults] == [True, True, False]


def test_blocks_are_read_as_a_reader_reads_them() -> None:
    page = (
        '# One\n\n    mpssl-fed a \\\n        b   # said\n    $ echo "x # y"\n\n    dataset: chest\n    unit: image\n\n'
        "## Two\n\n    from a import b\n    b()\n\n```toml\na = 1\n```\n\n```bash\n# nothing\nls; cd\n```\n"
    )
    found = [(step.section, step.line, step.kind, step.text) for step in steps("x.md", page)]
    assert [one for one in found if one[2] == "command"] == [
        ("One", 3, "command", "mpssl-fed a b"), ("One", 5, "command", 'echo "x # y"'), ("Two", 21, "command", "ls; cd")
    ]  # fmt: skip
    assert [(kind, text.split()[0]) for _, _, kind, text in found if kind != "command"] == [
        ("file", "dataset:"), ("python", "from"), ("file", "a")
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"x.md:1: a fence of 'basic'"):
        steps("x.md", "```basic\nls\n```\n")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OWN_TEST])
def test_page_in_short(page: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the toolkit, in order, each in seconds: exit status 0."""
    monkeypatch.chdir(furnish(page, tmp_path))
    monkeypatch.setattr(mpssl_fed, "simulate", lambda *given, real=mpssl_fed.simulate: real(*given, *LIGHT["simulate"]))
    for step in here(page):
        if step.kind == "python":
            exec(compile(step.text, step.where, "exec"), {})
            continue
        words = shlex.split(in_its_place(step.text))
        if words[:1] != ["mpssl-fed"] or {words[1], step.text} & SLOW_ALONE.keys():
            continue
        extra = [] if "--dry-run" in words else LIGHT.get(words[1], [])
        status, _, error = cli(*words[1:], *extra)
        assert status == 0, f"{step.where}: {step.text}\n{error}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if here(page)])
def test_page_as_it_stands(page: str, tmp_path: Path) -> None:
    """The whole page as its reader types it, in a copy of this checkout: exit status 0, and what was trained has learnt."""
    checkout = tmp_path / "checkout"
    left = shutil.ignore_patterns(".*", "runs", "data", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, checkout, ignore=lambda folder, names: left(folder, names) if Path(folder) == ROOT else {"__pycache__"})
    furnish(page, checkout)
    script = "set -e -o pipefail\n"
    for step in here(page):
        text = f"python - <<'END'\n{step.text}\nEND" if step.kind == "python" else in_its_place(step.text)
        script += f"echo {shlex.quote(f'=== {step.where}: {step.text}')} >&2\n{text}\n"
    said = _bash(script, checkout)
    print(said[-20_000:])
    for step in here(page):
        if (floor := FLOORS.get((page, step.text))) is not None:
            words = shlex.split(in_its_place(step.text))
            least = min(ends(checkout / _output(words)))
            print(f"{step.where}: {step.text}: {least:.4f}, floor {floor}")
            assert least >= floor, f"{step.where}: {step.text}: {least:.4f}"


def ends(folder: Path) -> list[float]:
    """Return the last accuracy, 0..1, of a run, or of each finished cell of a study."""
    table = folder / "results.csv"
    if table.is_file():
        with open(table, newline="", encoding="utf-8") as file:
            return [float(row["accuracy"]) for row in csv.DictReader(file) if row["status"] == "finished"]
    return [RunReader(folder).accuracy[-1][1]]


def _output(words: list[str]) -> Path:
    if "--output" in words:
        return Path(words[words.index("--output") + 1])
    return default_folder(Path(words[2]).stem, study=words[1] == "study")


def furnish(page: str, folder: Path) -> Path:
    """Put into ``folder`` what its page takes for granted: images, and the files that the page itself shows."""
    folder.mkdir(exist_ok=True)
    if page == "docs/example-cells.md":
        cells_folder(folder / "cells")
        (folder / "cells.yaml").write_text(next(step.text for step in steps(page) if step.text.startswith("data: ")))
        return folder
    for name in ("DIR", "photos"):
        shapes_folder(folder / name)
    lines = [
        f"{image.relative_to(folder)},{image.parent.name},{('Basel', 'Lyon')[number % 2]},{image.parent.parent.name}\n"
        for number, image in enumerate(sorted((folder / "photos").rglob("*.png")))
    ]
    (folder / "list.csv").write_text("".join(("path,label,site,split\n", *lines)))
    shutil.copy(folder / "photos/test/circle/000.png", folder / "new-image.png")
    for step in steps(page):
        if step.kind == "file" and step.page == "docs/deploy.md":
            name = "policy.yaml" if step.text.startswith("dataset:") else "config.yaml" if step.text.startswith("data:") else None
            if name:
                (folder / name).write_text(step.text)
    return folder


def _bash(script: str, checkout: Path) -> str:
    """Run a script in a checkout whose command line comes first on the PATH; return what it says."""
    programs = checkout / "bin"
    programs.mkdir()
    for name, words in (("mpssl-fed", "-m mpssl_fed.cli"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        (programs / name).chmod(0o755)
    own = {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{checkout}:{checkout / 'plugins'}",
        "XDG_STATE_HOME": str(checkout / "state"),
        "XDG_CACHE_HOME": str(checkout / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    with open(checkout / "said.txt", "w+") as said:
        whole = subprocess.Popen(
            ["bash", "-c", script], cwd=checkout, env=os.environ | SWITCHES | own, stdout=said, stderr=said, start_new_session=True
        )
        try:
            status = whole.wait(SECONDS)
        finally:
            if whole.poll() is None:
                os.killpg(whole.pid, 9)
                whole.wait()
        said.seek(0)
        text = said.read()
    assert status == 0, text[-6000:]
    return text
