"""predict: agrees with the classifier, takes any image, and names the file that it cannot read."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mpssl_fed
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.walk import Skipped
from mpssl_fed.errors import UserError
from mpssl_fed.trained import Trained, predict
from mpssl_fed.trained.load import BATCH
from mpssl_fed.trained.predict import OF_RUNS

Cli = Callable[..., tuple[int, str, str]]


def test_predictions_are_the_classifiers_softmax(trained: Trained, held_out: Images, folder: Path) -> None:
    files = sorted(folder.rglob("*.png"), key=lambda file: file.name)
    with torch.no_grad():
        expected = trained.classifier(held_out.floats()).softmax(1)
    found = list(predict(trained, files))
    assert [one.file for one in found] == files
    for one, row in zip(found, expected, strict=True):
        assert list(one.probabilities) == list(trained.classes)
        torch.testing.assert_close(torch.tensor(list(one.probabilities.values())), row, atol=1e-5, rtol=0)
        assert one.label == trained.classes[int(row.argmax())]
        assert one.probability == max(one.probabilities.values())
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-12)


def test_batches_do_not_change_the_answer(trained: Trained, folder: Path) -> None:
    file = next(folder.rglob("*.png"))
    (alone,) = predict(trained, [file])
    many = list(predict(trained, [file] * (BATCH + 2)))
    assert len(many) == BATCH + 2
    assert all(one.probability == pytest.approx(alone.probability, abs=1e-6) for one in many)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("shape", [(32, 32), (77, 45), (9, 200), (1, 1)])
def test_any_mode_and_size_is_taken(trained: Trained, mode: str, shape: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    wide = Image.fromarray(np.full(shape[::-1], 257 * 180, np.uint16))
    (wide if mode == "I;16" else Image.new("L", shape, 180).convert(mode)).save(file)
    (one,) = predict(trained, [file])
    assert one.label in trained.classes


def test_colour_is_read_as_its_grey(trained: Trained, folder: Path, tmp_path: Path) -> None:
    file = next(folder.rglob("*.png"))
    Image.open(file).convert("RGB").save(tmp_path / "colour.png")
    grey, colour = predict(trained, [file, tmp_path / "colour.png"])
    assert grey.probabilities == colour.probabilities


def test_a_folder_stands_for_its_images_in_depth(trained: Trained, folder: Path, tmp_path: Path) -> None:
    assert [one.file for one in predict(trained, [folder])] == sorted(folder.rglob("*.png"))
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=f"folder {tmp_path} has no image file"):
        predict(trained, [tmp_path])


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n cut"])
def test_a_corrupt_file_is_named(cli: Cli, run: mpssl_fed.Run, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    status, out, error = cli("predict", run.folder, file, "--csv")
    assert status == 2
    assert out == ""
    assert f"error: image file {file} cannot be decoded" in error


def test_a_truncated_file_is_named(cli: Cli, run: mpssl_fed.Run, folder: Path, tmp_path: Path) -> None:
    whole = next(folder.rglob("*.png")).read_bytes()
    file = tmp_path / "cut.png"
    file.write_bytes(whole[: len(whole) // 2])
    status, _, error = cli("predict", run.folder, file)
    assert status == 2
    assert f"image file {file} cannot be decoded" in error


def test_missing_paths(cli: Cli, tmp_path: Path, run: mpssl_fed.Run) -> None:
    status, _, error = cli("predict", run.folder, tmp_path / "none.png")
    assert (status, error) == (2, f"error: image file {tmp_path / 'none.png'} does not exist\n")
    status, _, error = cli("predict", tmp_path / "none", tmp_path)
    assert status == 2
    assert f"run '{tmp_path / 'none'}' does not exist" in error


def test_the_three_outputs_agree(cli: Cli, run: mpssl_fed.Run, folder: Path) -> None:
    files = sorted(folder.rglob("*.png"))[:3]
    status, table, _ = cli("predict", run.folder, *files)
    assert status == 0
    records = json.loads(cli("predict", run.folder, *files, "--json")[1])
    rows = list(csv.DictReader(io.StringIO(cli("predict", run.folder, *files, "--csv")[1])))
    for file, record, row in zip(files, records, rows, strict=True):
        assert record["file"] == row["file"] == str(file)
        assert record["class"] == row["class"]
        assert float(row["probability"]) == pytest.approx(record["probability"], abs=1e-6)
        line = next(line for line in table.splitlines() if file.name in line)
        assert f" {record['class']} " in line
        assert f"{record['probability']:.4f}" in line
    assert cli("predict", run.folder, files[0], "--csv", "--json")[0] == 2


def test_plots_of_runs_below_a_folder_are_no_images_to_name(trained: Trained, folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "scan.png"
    shutil.copy(next(folder.rglob("*.png")), image)
    run, study = tmp_path / "runs" / "demo", tmp_path / "runs" / "study"
    for plot in (run / "plots", study / "plots", study / "cells", tmp_path / "own"):
        plot.mkdir(parents=True)
        shutil.copy(image, plot / "accuracy.png")
    (run / "manifest.json").write_text(json.dumps({"run_id": "1"}))
    (study / "study.yaml").touch()
    (tmp_path / "own" / "study.yaml").touch()  # of whatever else the user has
    left_out = Skipped()
    assert [one.file for one in predict(trained, [tmp_path], left_out)] == [tmp_path / "own" / "accuracy.png", image]
    assert set(left_out.found[OF_RUNS]) == {place / "accuracy.png" for place in (run / "plots", study / "plots", study / "cells")}
    assert len(list(predict(trained, [run]))) == 1  # asked for by name
