"""A list in the place of a folder: evaluate and predict read it as training does, and say whose line is wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mpssl_fed
from mpssl_fed.data.walk import COPY, TRAINED_ON, Skipped
from mpssl_fed.errors import UserError
from mpssl_fed.metrics import wilson
from mpssl_fed.trained import Trained, evaluate_folder, evaluate_list, is_list, predict

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tree(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty of the digits as ``digits/CLASS/SUBJECT/*.png``, with room for lists beside it."""
    root = tmp_path_factory.mktemp("hospital")
    for i, file in enumerate(sorted(folder.rglob("*.png"), key=lambda file: file.name)[:60]):
        place = root / "digits" / file.parent.name / f"p{i % 20}" / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    return root


def rows(tree: Path) -> list[tuple[str, str, str]]:
    """Return (path, label, subject) of each image, in an order that is not the folder's."""
    found = sorted(path.relative_to(tree) for path in tree.rglob("*.png"))
    random.Random(0).shuffle(found)
    return [(str(path), path.parts[1], path.parts[2]) for path in found]


def listed(file: Path, head: str, lines: Iterator[str] | list[str]) -> Path:
    file.write_text("\n".join((head, *lines, "")), encoding="utf-8")
    return file


def test_a_list_gives_what_the_folder_does_to_the_bit(trained: Trained, tree: Path) -> None:
    whole = listed(tree / "whole.csv", "label,path,subject", [f"{label},{path},{who}" for path, label, who in rows(tree)])
    by_list = evaluate_list(trained, whole)
    assert by_list.metrics.subjects == 20
    assert by_list.to_json() == evaluate_folder(trained, tree / "digits", subjects="parent").to_json()
    for i, path in enumerate((tree / "digits").rglob("*.png")):
        target = tree / "flat" / path.parents[1].name / f"{i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    alone = listed(tree / "flat.csv", "path,label", [f"{path},{path.parent.name}" for path in (tree / "flat").rglob("*.png")])
    assert evaluate_list(trained, alone).to_json() == evaluate_folder(trained, tree / "flat").to_json()
    shutil.rmtree(tree / "flat")


def test_the_test_split_alone_counts_and_each_site_has_its_line(cli: Cli, run: mpssl_fed.Run, trained: Trained, tree: Path) -> None:
    sites = ("H 10", "H 2", "")
    lines = [f"{path},{label},{sites[i % 3]},{'test' if i < 40 else 'train'}" for i, (path, label, _) in enumerate(rows(tree))]
    file = listed(tree / "sites.CSV", "path,label,site,split", lines)
    skipped = Skipped()
    result = evaluate_list(trained, file, skipped=skipped)
    assert {reason: len(paths) for reason, paths in skipped.found.items()} == {TRAINED_ON: 20}
    assert result.images == 40
    assert result.sites is not None
    assert [one.name for one in result.sites] == ["H 2", "H 10", None]
    named = {one.written: one.label for one in predict(trained, [file])}
    for one in result.sites:
        here = [(path, label) for i, (path, label, _) in enumerate(rows(tree)[:40]) if sites[i % 3] == (one.name or "")]
        right = sum(named[path] == label for path, label in here)
        assert (one.images, one.accuracy, one.interval) == (len(here), right / len(here), wilson(right, len(here)))
    status, text, error = cli("evaluate", run.folder, file)
    assert status == 0
    assert f"left out: 20 {TRAINED_ON}: " in error
    low, high = result.sites[0].interval
    (line,) = (line for line in text.splitlines() if "H 2" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "H 2", str(result.sites[0].images), f"{result.sites[0].accuracy:.4f}", f"{low:.4f} to {high:.4f}",
    ]  # fmt: skip
    answer = json.loads(cli("evaluate", run.folder, file, "--json")[1])
    assert answer == json.loads(json.dumps(result.to_json()))
    assert [one["name"] for one in answer["sites"]] == ["H 2", "H 10", None]


def test_what_cannot_be_evaluated_is_refused_by_its_line(cli: Cli, run: mpssl_fed.Run, trained: Trained, tree: Path) -> None:
    path, label, _ = rows(tree)[0]
    bad = tree / "bad.csv"
    for head, line, said in (
        ("path,label", "gone.png,3", "line 2: image file 'gone.png' does not exist"),
        ("path,label", f"{path},cat", "line 2: 'cat' is not a class of this task"),
        ("path,label", f"{path},{label}\n{path},{label}", "line 3: .* is already named on line 2"),
        ("path,label,subject", f"{path},{label},nan", "line 2: 'nan' names nobody"),
        ("path,label,site", f"{path},{label},A\n{rows(tree)[1][0]},{rows(tree)[1][1]},a", "line 3: the site 'a' looks like 'A'"),
        ("path,label,split", f"{path},{label},train", "its column split says train everywhere; name test images"),
        ("path", path, "line 1 must name the columns path,label"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate_list(trained, listed(bad, head, [line]))
    listed(bad, "path,label", [f"{path},{label}"])
    for subjects, wanted in (("parent", "a column subject"), ("dicom-patient-id", "line 2: .* no DICOM file")):
        status, out, error = cli("evaluate", run.folder, bad, "--subjects", subjects)
        assert (status, out) == (2, "")
        assert re.search(wanted, error)
    status, _, error = cli("evaluate", run.folder, tree / "none.csv")
    assert status == 2
    assert f"cannot read the list {tree / 'none.csv'}: file {tree / 'none.csv'} does not exist" in error


def test_copies_count_once_as_in_a_folder(trained: Trained, tree: Path, tmp_path: Path) -> None:
    path, label, _ = rows(tree)[0]
    for name in ("a.png", "b.png"):
        shutil.copy(tree / path, tmp_path / name)
    skipped = Skipped()
    file = listed(tmp_path / "list.csv", "path,label", [f"a.png,{label}", f"b.png,{label}"])
    assert evaluate_list(trained, file, skipped=skipped).images == 1
    assert skipped.found == {COPY: [tmp_path / "b.png"]}
    for name, other in (("c.png", 1), ("d.png", 2), ("e.png", 2)):
        shutil.copy(tree / rows(tree)[other][0], tmp_path / name)
    (one, two), skipped = (rows(tree)[other][1] for other in (1, 2)), Skipped()
    lines = [f"a.png,{label},test", f"b.png,{label},test", f"c.png,{one},train", f"d.png,{two},train", f"e.png,{two},train"]
    assert evaluate_list(trained, listed(file, "path,label,split", lines), skipped=skipped).images == 1
    assert skipped.found == {COPY: [tmp_path / "b.png"], TRAINED_ON: [tmp_path / f"{name}.png" for name in "cde"]}


def test_predict_answers_line_by_line_under_the_paths_of_the_list(
    cli: Cli, run: mpssl_fed.Run, trained: Trained, tree: Path
) -> None:
    """A file that is named twice (two findings on one image) is answered twice: the answer fits beside the list."""
    first, second = rows(tree)[0][0], rows(tree)[1][0]
    written = [f"./{first}", second, str(tree / first), f"./{first}"]
    lines = [f"nan,{path},{i},no such class" for i, path in enumerate(written)]
    file = listed(tree / "findings.csv", ",path,,label", lines)  # without names, as an index of a data frame is
    answers = list(csv.DictReader(io.StringIO(cli("predict", run.folder, file, "--csv")[1])))
    assert [answer["file"] for answer in answers] == written
    one, two = (next(iter(predict(trained, [tree / path]))) for path in (first, second))
    assert [answer["class"] for answer in answers] == [one.label, two.label, one.label, one.label]
    assert [answer["file"] for answer in json.loads(cli("predict", run.folder, file, "--json")[1])] == written
    table = cli("predict", run.folder, file)[1]
    assert f" ./{first} " in table
    both = list(predict(trained, [tree / second, file, tree / "digits" / "3"]))
    assert [answer.written for answer in both[:5]] == [None, *written]
    assert {answer.written for answer in both[5:]} == {None}
    assert both[1].file == tree / first


@pytest.mark.parametrize(
    ("head", "line", "said"),
    [
        ("path", "gone.png", "line 2: image file 'gone.png' does not exist"),
        ("path", "digits", "line 2: 'digits' is no regular file"),
        ("path,label", ",3", "line 2: image file '' does not exist"),
        ("file,label", "gone.png,3", "line 1 must name the column path, not file,label"),
        ("path,label,path", "a.png,3,b.png", "line 1 names the column 'path' 2 times"),
        ("label,path", "3", "line 2: no path in '3'"),
        ("path", "", "names no image; expected one line per file under a header with the column path"),
    ],
)
def test_predict_refuses_a_list_by_its_line(head: str, line: str, said: str, trained: Trained, tree: Path) -> None:
    with pytest.raises(UserError, match=said):
        predict(trained, [listed(tree / "bad.csv", head, [line])])


def test_which_file_is_a_list(trained: Trained, tree: Path, tmp_path: Path) -> None:
    path, label, _ = rows(tree)[0]
    folder = tmp_path / "folder.csv" / label
    folder.mkdir(parents=True)
    image = folder / "scan"  # an image without a suffix
    shutil.copy(tree / path, image)
    text = f"path\tlabel\n{image}\t{label}\n"
    for name in ("list.CSV", "list.tsv", "list", "list.txt"):
        (tmp_path / name).write_text(text)
        assert is_list(tmp_path / name)
        assert [one.file for one in predict(trained, [tmp_path / name])] == [image]
    (tmp_path / "wide.txt").write_text(text, encoding="utf-16")
    with pytest.raises(UserError, match=r"cannot read the list .* it is UTF-16; expected UTF-8 CSV with path, so save it as that"):
        predict(trained, [tmp_path / "wide.txt"])
    (tmp_path / "text.png").write_text(text)
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    os.mkfifo(tmp_path / "pipe")
    for other in ("folder.csv", image, "text.png", "phone.heic", "pipe", "none", "x" * 300, "\0"):
        assert not is_list(tmp_path / other)
    shutil.move(image, folder / "scan.png")
    assert evaluate_folder(trained, tmp_path / "folder.csv").images == 1
    assert len(list(predict(trained, [tmp_path / "folder.csv"]))) == 1
