"""The commands ``report``, ``data`` and ``generate``."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mpssl_fed.cli import build
from mpssl_fed.errors import UserError
from tests.data.test_folder import picture, tree
from tests.study.runs import write_run
from tests.study.test_studies_of_other_data import cells_folder


def call(*words: str | Path) -> Result:
    """Call the command line and return what came of it."""
    return CliRunner().invoke(build(), [str(word) for word in words])


def test_report_rebuilds_a_run(tmp_path: Path) -> None:
    page = write_run(tmp_path, [0.1, 0.5]) / "report.html"
    result = call("report", tmp_path)
    assert (result.exit_code, result.output.strip()) == (0, str(page))
    assert "50.0 %" in page.read_text()
    assert isinstance(call("report", tmp_path / "none").exception, UserError)


def test_data_tells_who_holds_what(tmp_path: Path) -> None:
    result = call("data", "demo", "federation.sites=3", "data.labels_per_class=2", "--plot", tmp_path / "plots")
    assert result.exit_code == 0, result.exception
    assert "mnist-5k: 10 classes" in result.output
    assert "3 sites hold 60 labelled images" in result.output
    with Image.open(tmp_path / "plots" / "labels.png") as image:
        assert image.size[0] > 300
    assert "Did you mean 'federation.sites'" not in str(result.exception)


def test_data_counts_subjects(tmp_path: Path) -> None:
    root = cells_folder(tmp_path / "cells")
    words = ["data", "own", f"data.root={root}", "data.subjects=parent", "federation.sites=2", "--plot", tmp_path / "plots"]
    result = call(*words)
    assert result.exit_code == 0, result.exception
    found = re.search(r"^(\d+) subjects have these images: (\d+) to (\d+) per site; (\d+) others to test on$", result.output, re.M)
    assert found, result.output
    train, least, most, test = map(int, found.groups())
    assert (train + test, least + most) == (12, train)
    other = shutil.copytree(root, tmp_path / "other")
    for kind in ("platelets", "rbc", "wbc"):
        shutil.copytree(root / "train" / kind / "00000", other / "test" / kind / "00000")
    error = call(*words, f"data.root={other}").exception
    assert isinstance(error, UserError)
    assert "00000" in str(error)


def test_the_table_stands_where_no_plot_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("in the way")
    words = ("data", "demo", "federation.sites=2", "data.labels_per_class=1")
    result = call(*words)
    assert result.exit_code == 0, result.exception
    assert "2 sites hold 20 labelled images" in result.output
    assert "No plot: runs/data: " in result.output
    assert isinstance(call(*words, "--plot", "runs/here").exception, OSError)  # asked for by name: an error


def test_data_says_what_it_leaves_out(tmp_path: Path) -> None:
    root = tree(tmp_path / "photos", n=6)
    (root / "train" / "cat" / "x.gif").write_bytes(b"")
    (root / "train" / "dog" / "gone.png").symlink_to("/annex/gone.png")
    picture(root / "val" / "cat" / "0.png")
    words = ["data.name=image-folder", f"data.root={root}", "data.labels_per_class=2", "data.partition.name=iid"]
    result = call("data", "demo", *words, "data.partition.alpha=null", "federation.sites=2", "--plot", tmp_path / "plots")
    assert result.exit_code == 0, result.exception
    lines = result.output.splitlines()
    assert lines[1].startswith("no folder") and lines[1].endswith("3 of the 18 images in train are held out")  # noqa: PT018
    assert sorted(line.split(":")[1].strip()[:10] for line in lines if line.startswith("left out: ")) == sorted(
        ["1 beside t", "1 not read", "1 dead lin"]
    )
    for name in ("x.gif", "gone.png", "photos/val"):
        assert name in result.output


def test_data_refuses_a_misspelt_key() -> None:
    error = call("data", "demo", "federation.site=3").exception
    assert isinstance(error, UserError)
    assert "Did you mean 'sites'" in str(error)


def test_generate_writes_a_sheet(tmp_path: Path) -> None:
    small, large = tmp_path / "a.png", tmp_path / "b.png"
    assert call("generate", "--out", small, "--per-class", "2", "--classes", "A,7").exit_code == 0
    assert call("generate", "--out", large, "--per-class", "2", "--classes", "A,B,C,7").exit_code == 0
    with Image.open(small) as one, Image.open(large) as other:
        assert one.size[1] < other.size[1]
        assert len(set(one.convert("L").tobytes())) > 30


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--classes", "A,Ä"], "has no class 'Ä'"),
        (["--generator", "glyphs-digit"], "Did you mean 'glyphs-digits'"),
        (["--per-class", "0"], "1 or more"),
        (["--truncation", "3"], "truncation"),
    ],
)
def test_generate_refuses(tmp_path: Path, words: list[str], said: str) -> None:
    error = call("generate", "--out", tmp_path / "x.png", *words).exception
    assert isinstance(error, UserError), error
    assert said in str(error)
