"""One window for all grey DICOM files: the standard's formula, alike for all who read, refused for what has no such units."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mpssl_fed
from mpssl_fed.config import from_mapping, load
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.decode import read_images
from mpssl_fed.data.formats import pixel_cache
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.server.deployed_run import for_sites, with_task
from mpssl_fed.runs.model_file import read_preparation
from mpssl_fed.trained import evaluate_folder, export, load_trained
from tests.extras.test_dicom import CT, RAMP, linear, read, scan, written

Cli = Callable[..., tuple[int, str, str]]
CENTER, WIDTH = -600.0, 300.0
HU = 2 * RAMP - 1024
FILES: list[dict[str, Any]] = [
    CT,
    {**CT, "WindowCenter": 40, "WindowWidth": 80},  # the file's own window
    {**CT, "WindowCenter": 40, "WindowWidth": 80, "VOILUTFunction": "SIGMOID"},
    {"RescaleSlope": 1, "RescaleIntercept": 0},
]


@pytest.mark.parametrize("header", FILES)
@pytest.mark.parametrize("width", [1, 1.5, 2, WIDTH, 1e300])
def test_a_window_that_is_said_takes_the_place_of_the_files(header: dict[str, Any], width: float, tmp_path: Path) -> None:
    values = RAMP if header["RescaleSlope"] == 1 else HU
    center = float(values[10, 10])
    expected = np.vectorize(lambda v: float(linear(v, center, width)))(values)
    file = written(tmp_path, scan(values if header["RescaleSlope"] == 1 else RAMP, 16, **header))
    np.testing.assert_allclose(read(file, window=(center, width)), expected, atol=0.501)


def test_it_is_what_the_file_would_say_and_pydicom_computes(tmp_path: Path) -> None:
    own = read(written(tmp_path, scan(**CT, WindowCenter=CENTER, WindowWidth=WIDTH), "own.dcm"))
    plain = read(written(tmp_path, scan(**CT, WindowCenter=[0, 9], WindowWidth=[7, 8]), "other.dcm"), window=(CENTER, WIDTH))
    np.testing.assert_array_equal(own, plain)
    assert len(np.unique(plain)) > 50


def test_inverted_and_padded(tmp_path: Path) -> None:
    upright = read(written(tmp_path, scan(**CT)), window=(CENTER, WIDTH))
    header = {**CT, "PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 5}
    expected = np.where(RAMP == 5, 0, 255 - upright.astype(int))
    np.testing.assert_array_equal(read(written(tmp_path, scan(**header)), window=(CENTER, WIDTH)), expected)


def test_scanners_that_store_alike_values_differently_look_alike(tmp_path: Path) -> None:
    one = written(tmp_path, scan(RAMP, 12, **CT, WindowCenter=40, WindowWidth=80), "one.dcm")
    two = written(tmp_path, scan(HU, 16, RescaleSlope=1, RescaleIntercept=0, WindowCenter=0, WindowWidth=9), "two.dcm")
    assert not np.array_equal(read(one), read(two))
    np.testing.assert_array_equal(read(one, window=(CENTER, WIDTH)), read(two, window=(CENTER, WIDTH)))


def test_what_has_no_such_units_is_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "x.png")
    colour = written(tmp_path, scan(np.zeros((24, 24, 3), dtype=np.uint8), 8), "colour.dcm")
    for file, what in ((tmp_path / "x.png", "no DICOM file"), (colour, "a DICOM file of colour")):
        with pytest.raises(UserError, match=rf"{file.name}: {what}; data\.window \(center 40, width 400\) is for .* grey DICOM"):
            read(file, window=(40, 400))
    with pytest.raises(UserError, match=r"data set 'mnist-5k' has its own way of reading images; leave out data.window"):
        load_dataset("mnist-5k", prepared=Preparation(window=(40, 400)))


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["data.window.center=40"], r"data\.window\.width"),
        (["data.window={center: 40, width: 0.5}"], r"data\.window\.width.*greater than or equal to 1"),
        (["data.window={center: .nan, width: 9}"], r"data\.window\.center"),
        (["data.window={center: 40, widht: 9}"], "widht"),
    ],
)
def test_a_window_that_is_none_is_refused(overrides: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        load("demo", overrides)


def test_a_window_beside_a_white_level_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.window \(center 40, width 400\) and data\.white_level=4095 both say what white is"):
        Preparation(window=(40, 400), white_level=4095)
    for window in ((math.nan, 400), (40, math.inf), (40, 0.9)):
        with pytest.raises(UserError, match=r"data\.window is center .*; want a finite center and a width of at least 1"):
            Preparation(window=window)


def test_decoded_images_are_kept_by_their_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPSSL_FED_IMAGE_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(pixel_cache, "FEWEST", 1)
    file = written(tmp_path, scan(**CT, WindowCenter=CENTER, WindowWidth=WIDTH))
    windows = (None, (CENTER, WIDTH), (CENTER, 2 * WIDTH), (0.0, WIDTH))
    first = [read_images([file], 24, None, Preparation(window=window)) for window in windows]
    again = [read_images([file], 24, None, Preparation(window=window)) for window in windows]
    assert len(list((tmp_path / "kept").glob("*/*.npy"))) == 4
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({one.numpy().tobytes() for one in first[1:]}) == 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ within the window alone; each file has a window of its own in which they do not."""
    root, rng = tmp_path_factory.mktemp("ct"), np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 3)):
        for name, tissue in (("fat", -80), ("liver", 60)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                stored = np.clip(rng.normal(tissue, 20, (16, 16)), -200, 200).astype(int) + 1024
                header = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 2000 + i, "WindowWidth": 50}
                written(root / part / name, scan(stored, 12, **header), f"{i}.dcm")
    return root


def fields_of(root: Path) -> dict[str, Any]:
    return {
        "data": {"name": "image-folder", "root": str(root), "labels_per_class": 3, "size": 16},
        "model": {"name": "pixels"},
        "method": {"name": "base"},
        "federation": {"sites": 2, "rounds": 1, "local_steps": 20},
        "runtime": {"device": "cpu"},
    }


WINDOW = ("data.window.center=40", "data.window.width=400")


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> mpssl_fed.Run:
    return mpssl_fed.simulate(fields_of(photos), *WINDOW, f"output.dir={tmp_path_factory.mktemp('windowed') / 'run'}")


def test_a_trained_model_reads_as_it_was_trained(run: mpssl_fed.Run, photos: Path, cli: Cli, tmp_path: Path) -> None:
    assert parts.dataset(run.config).test.x.unique().numel() > 20
    assert load_dataset("image-folder", photos, 16).test.x.unique().tolist() == [0]  # the files' own windows show nothing
    assert read_preparation(run.folder) == Preparation(window=(40, 400))
    trained = load_trained(run.folder, "cpu")
    assert torch.equal(trained.read(sorted((photos / "test").rglob("*.dcm"))), parts.dataset(run.config).test.x)
    assert evaluate_folder(trained, photos / "test").accuracy == run.accuracy == 1
    file = next((photos / "test").rglob("*.dcm"))
    assert cli("predict", run.folder, file)[0] == 0
    Image.fromarray(np.zeros((16, 16), dtype=np.uint8)).save(tmp_path / "shot.png")
    code, _, said = cli("predict", run.folder, tmp_path / "shot.png")
    assert code == 2
    assert "data.window" in said
    assert cli("predict", run.folder, file, "--white-level", "4095")[0] == 2
    made = export(trained, "torch-export", tmp_path / "model.pt2")
    metadata = {"metadata.json": ""}
    torch.export.load(made.file, extra_files=metadata)
    how = json.loads(metadata["metadata.json"])["preprocessing"]
    assert how["window"] == {"center": 40, "width": 400, "function": "LINEAR"}


def test_sites_agree_on_it(run: mpssl_fed.Run, photos: Path) -> None:
    sent = for_sites(with_task(run.config))
    assert sent.data.window is None
    own = OwnData(photos / "test", ("fat", "liver"), size=16, channels=1, window=(40, 400))
    assert torch.equal(own.labelled(sent).x, parts.dataset(run.config).test.x)
    for window in (None, (40, 401), (41, 400)):
        other = OwnData(photos / "test", ("fat", "liver"), size=16, channels=1, window=window)
        with pytest.raises(Refusal, match="image-shape"):
            other.labelled(sent)
    task = {"classes": ["fat", "liver"], "channels": 1, "size": 16, "window": {"center": 40, "width": 400}}
    away = from_mapping({"data": {"name": "none", "task": task}})
    assert torch.equal(own.labelled(away).x, own.images().x)
    assert parts.preparation(away) == Preparation(window=(40, 400))


def test_a_rehearsals_shares_are_windowed_already(photos: Path, tmp_path: Path) -> None:
    fields = fields_of(photos)
    fields["data"]["window"] = {"center": 40, "width": 400}
    up = Deployment(from_mapping(fields), tmp_path / "run", note=lambda _: None)
    assert parts.preparation(up.config).window == (40, 400)  # what the model file says
    held = parts.labelled(up.config, 0)
    daemon = OwnData(write_share(tmp_path / "share", up.config, 0), ("fat", "liver"), size=16, channels=1)
    assert torch.equal(daemon.labelled(for_sites(up.config)).x, held.x)
    assert held.x.unique().numel() > 20
