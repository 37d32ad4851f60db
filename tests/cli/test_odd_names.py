"""One run on classes and files whose names are markup, mathematics, control characters or hardly told apart: all are shown."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

import mpssl_fed
from mpssl_fed.data.label_table import COLUMN
from mpssl_fed.errors import UserError
from mpssl_fed.names import distinct, shown
from mpssl_fed.report.run_report import write_run_report
from tests.data.test_folder import picture

LONG = "pneumonia, bacterial, of the left lower lobe, "
NAMES = (
    "[left]",
    "$5% to 10%$",
    ":smile:",
    "a\nb",
    "图像",
    "<b>",
    f"{LONG}mild",
    f"{LONG}severe",
    "#0072b2",
    "_x",
    "\u202eab",
    'id="x',
)
SETTINGS = ("data.labels_per_class=2", "data.partition.name=iid", "federation.sites=2", "data.size=16")

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos [x]")
    for label, name in enumerate(NAMES):
        for part, n in (("train", 4), ("test", 1)):
            for i in range(n):
                picture(root / part / name / f"{i}.png", seed=100 * label + 10 * len(part) + i)
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "r [1] $a$ $b$"
    config = {"data": {"name": "image-folder", "root": str(photos)}, "method": {"name": "base"}, "federation": {"rounds": 1}}
    config["federation"]["local_steps"] = 1  # type: ignore[assignment]
    mpssl_fed.simulate(config, *SETTINGS, f"output.dir={json.dumps(str(folder))}")
    write_run_report(folder)
    return folder


def test_data_shows_every_class_whole(cli: Cli, photos: Path, tmp_path: Path) -> None:
    root = f"data.root={json.dumps(str(photos))}"
    status, out, _ = cli("data", "demo", "data.name=image-folder", root, *SETTINGS, "data.partition.alpha=null", "--plot", tmp_path)
    assert status == 0
    for name in NAMES:
        assert shown(name) in out
    heads = distinct(sorted(NAMES), COLUMN)
    assert all(head in out.splitlines()[3] for head in heads)
    words = [element.text for element in ElementTree.parse(tmp_path / "labels.svg").iter() if element.text]
    assert {"[left]", "$5% to 10%$", ":smile:", r"a\nb", r"\u56fe\u50cf", "<b>", "#0072b2", "_x", r"\u202eab", 'id="x'} <= set(
        words
    )
    assert len({word for word in words if word.startswith("pneumonia")}) == 2


def test_the_report_shows_every_class_whole(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    text = unescape(re.sub(r"<[^>]+>", " ", page))
    for name in NAMES:
        assert shown(name) in text
    assert "\u202e" not in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", page)


def test_evaluate_shows_every_class_whole(cli: Cli, run: Path, photos: Path) -> None:
    status, out, _ = cli("evaluate", run, photos / "test")
    assert status == 0
    for name in NAMES:
        assert re.search(rf"│ {re.escape(shown(name))} +│", out)
    assert list(json.loads(cli("evaluate", run, photos / "test", "--json")[1])["recall"]) == sorted(NAMES)


def test_predict_shows_every_file_whole(cli: Cli, run: Path, tmp_path: Path) -> None:
    names = [
        "scan[left].png",
        ":smile:.png",
        "[red]x[/red].png",
        "two\nlines.png",
        "a\x1b[31mb.png",
        "=1+1.png",
        'comma, "quote".png',
    ]
    names += [os.fsdecode(b"caf\xe9.png"), f"{LONG}{'x' * 150}1.png", f"{LONG}{'x' * 150}2.png", " a.png", "\u202egnp.exe.png"]
    files = [picture(tmp_path / name, seed=i) for i, name in enumerate(names)]
    status, table, _ = cli("predict", run, *files)
    assert status == 0
    for file in files:
        assert f"│ {shown(file)} " in table
    assert "\x1b" not in table
    rows = list(csv.DictReader(io.StringIO(cli("predict", run, *files, "--csv")[1])))
    records = json.loads(cli("predict", run, *files, "--json")[1])
    for file, row, record in zip(files, rows, records, strict=True):
        plain = str(file).encode("utf-8", "backslashreplace").decode().replace(r"\udce9", r"\xe9")
        assert row["file"] == record["file"] == plain


def test_a_narrow_terminal_folds_names_and_cuts_none(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    from mpssl_fed.cli import model

    monkeypatch.setattr(Console, "is_terminal", True)
    screen = io.StringIO()
    console = Console(file=screen, width=60, soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(model._table(("file", "class"), [("x" * 100 + "1", "cat"), ("x" * 100 + "2", "dog")]))
    text = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert "…" not in text
    assert text.count("x") == 200
    assert max(map(len, text.splitlines())) <= 60


@pytest.mark.parametrize("command", ["data", "simulate"])
def test_an_error_names_a_class_that_steers_a_terminal_escaped(cli: Cli, tmp_path: Path, command: str) -> None:
    for label, name in enumerate(("\x1b[31ma\nb", "c")):
        for i in range(4):
            picture(tmp_path / "train" / name / f"{i}.png", seed=10 * label + i)
    status, out, err = cli(command, "datasets/image-folder", f"data.root={tmp_path}", "data.labels_per_class=40")
    assert status == 2
    assert r"class '\x1b[31ma\nb'" in err
    assert "\x1b" not in out + err


def test_what_any_error_quotes_is_printable(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from mpssl_fed.cli.ending import ending_of

    def fail() -> None:
        raise UserError(f"{tmp_path}/\x1b]0;title\x07\u202e.png: no\n  second line")

    assert ending_of(fail) == 2
    assert capfd.readouterr().err == f"error: {tmp_path}/\\x1b]0;title\\x07\\u202e.png: no\n  second line\n"
