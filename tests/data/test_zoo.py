"""Every odd file is read as PIL reads it, or refused by its name; training, sites and predict do it alike."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.decode import read_image, read_images
from mpssl_fed.data.folder import load_site_csv, load_site_folder
from mpssl_fed.data.formats import dicom
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.errors import UserError
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.trained import Trained, evaluate_folder, predict
from tests.data.zoo import COLOUR, SIDE, WIDE, ZOO, Animal, pil, png, save, tiff

CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def trained() -> Trained:
    """Any classifier: what it is given matters here, not what it says."""
    return Trained(build_classifier(Architecture("pixels", CLASSES, 3, SIDE)).eval(), Path("model.safetensors"))


def same(x: torch.Tensor, expected: np.ndarray) -> None:
    """Compare x [3, S, S] with grey [S, S] or RGB [S, S, 3]."""
    colour = expected if expected.ndim == 3 else expected[..., None].repeat(3, 2)
    np.testing.assert_array_equal(x.permute(1, 2, 0).numpy(), colour.astype(np.uint8))


def test_the_zoo_is_large() -> None:
    assert len({animal.name for animal in ZOO}) == len(ZOO) >= 70


@pytest.mark.parametrize("animal", ZOO, ids=lambda animal: animal.name)
def test_read_as_pil_reads_it_or_refused_by_name(animal: Animal, trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / animal.name
    animal.write(file)
    listing = tmp_path / "list.csv"
    with open(listing, "w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows([("path", "label"), (file.name, "cat")])
    if animal.refused:
        with pytest.raises(UserError, match=animal.refused) as refusal:
            read_image(file, SIDE)
        assert animal.name in str(refusal.value)
        with pytest.raises(UserError) as of_predict:
            list(predict(trained, [file]))
        assert str(of_predict.value) == str(refusal.value) or file.is_dir()
        with pytest.raises(UserError) as of_site:
            load_site_csv(listing, CLASSES, SIDE, 3)
        assert animal.name in str(of_site.value)
        return
    expected = pil(file) if animal.pixels is None else animal.pixels.astype(np.uint8)
    three = read_image(file, SIDE).expand(3, SIDE, SIDE)
    same(three, expected)
    assert torch.equal(trained.read([file])[0], three)
    assert torch.equal(load_site_csv(listing, CLASSES, SIDE, 3).x[0], three)


FILES = [animal for animal in ZOO if animal.name != "folder.png"]  # an empty folder in a class is nothing lost


@pytest.mark.parametrize("animal", FILES, ids=lambda animal: animal.name)
def test_folders_of_it_are_treated_alike(animal: Animal, trained: Trained, tmp_path: Path) -> None:
    """Training (which `data` shows), a site's folder, `evaluate` and `predict` of a folder: read alike, or refused alike."""
    for file in (tmp_path / "train" / "cat" / animal.name, tmp_path / "train" / "dog" / "other.png", tmp_path / "test/dog/one.png"):
        file.parent.mkdir(parents=True, exist_ok=True)
        (animal.write if file.name == animal.name else save(COLOUR[:, ::-1] if file.name == "one.png" else COLOUR[::-1]))(file)
    odd, folder = tmp_path / "train" / "cat" / animal.name, tmp_path / "train"
    ways: list[Callable[[], torch.Tensor]] = [
        lambda: load_dataset("image-folder", tmp_path, SIDE).train.x[0],
        lambda: load_site_folder(folder, CLASSES, SIDE, 3).x[0],
        lambda: torch.tensor(evaluate_folder(trained, folder).images),
        lambda: torch.tensor(len(list(predict(trained, [folder / "cat"])))),
    ]
    if animal.refused:
        for way in ways:
            with pytest.raises(UserError, match=animal.refused if odd.is_file() else "no image") as refusal:
                way()
            assert animal.name in str(refusal.value) or not odd.is_file()
        return
    expected = pil(odd) if animal.pixels is None else animal.pixels
    first, at_site, evaluated, predicted = (way() for way in ways)
    same(first.expand(3, SIDE, SIDE), expected)
    same(at_site, expected)
    links = len(list(odd.parent.iterdir())) - 1
    assert (int(evaluated), int(predicted)) == (2, 1 + links)


@pytest.mark.parametrize(
    ("write", "level", "expected"),
    [
        (save(WIDE >> 4), 4095, np.rint((WIDE >> 4) / 4095 * 255)),
        (save(WIDE >> 8), 255, WIDE >> 8),
        (save(WIDE >> 4), 65535, np.rint((WIDE >> 4) / 257)),
        (tiff((WIDE // 2).astype("<i2"), 16, 2), 32767, np.rint((WIDE // 2) / 32767 * 255)),
        (tiff(WIDE.astype("<u4"), 32), 65535, np.rint(WIDE / 257)),
        (tiff((WIDE / 32768).astype("<f4"), 32, 3), 2.0, np.rint((WIDE / 32768).astype("<f4") * 127.5)),
        (save(WIDE >> 4), 2000, "16-bit values from 0 to 4095, where 0 is black and 2000 white; set data.white_level=4095"),
        (tiff((WIDE.astype("<i4") - 5), 32, 2), 65535, "values from -5 .*rescale it to 0 to 65535"),
        (png((WIDE[..., None].repeat(3, 2) >> 4).astype(">u2").reshape(SIDE, -1), 16, 2), 4095, "16-bit colour, which is read"),
        (png((WIDE[..., None].repeat(3, 2) >> 4).astype(">u2").reshape(SIDE, -1), 16, 2), 65535, WIDE >> 12),
        (save(COLOUR), 4095, COLOUR),
        (save(WIDE), 1e6, "16-bit grey, whose largest value is 65535, cannot have white at 1e[+]06"),
        (tiff((WIDE >> 4).astype("<u2"), 16), 70000, "cannot have white at 70000; say what white is: data.white_level=4095"),
    ],
)  # fmt: skip
def test_a_white_level_that_is_said(write: object, level: float, expected: np.ndarray | str, tmp_path: Path) -> None:
    file = tmp_path / "x.tif"
    assert callable(write)
    write(file)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            read_image(file, SIDE, Preparation(white_level=level))
        return
    same(read_images([file], SIDE, 3, Preparation(white_level=level))[0], expected)


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The bytes of every regular file of the zoo."""
    folder = tmp_path_factory.mktemp("bodies")
    for animal in ZOO:
        animal.write(folder / animal.name)
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.stat().st_size]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_a_spoilt_file_is_read_or_refused_and_nothing_else(bodies: list[bytes], tmp_path: Path, data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(bodies)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1) | st.integers(0, min(199, len(body) - 1)))
        body[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(min_size=1, max_size=6))
    (tmp_path / "x.png").write_bytes(bytes(body))
    try:
        assert read_image(tmp_path / "x.png", 16).shape[1:] == (16, 16)
    except UserError as error:
        assert "x.png" in str(error)  # noqa: PT017


def test_dicom_without_its_reader_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scan.dcm").write_bytes(bytes(128) + b"DICM")
    monkeypatch.setattr(dicom, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"scan\.dcm: a DICOM file; pip install 'mpssl-fed\[medical\]'"):
        read_image(tmp_path / "scan.dcm", 8)


def test_an_unreadable_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(COLOUR)(tmp_path / "x.png")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # the suite may run as root, whom no mode stops
    with pytest.raises(UserError, match=r"x\.png cannot be read \(Permission denied\); let this user read it"):
        read_image(tmp_path / "x.png", 8)


def test_a_file_larger_than_any_picture_is_not_loaded(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    save(COLOUR)(file)
    os.truncate(file, 40 << 30)  # a hole: it takes no place on the disk, but would in memory
    with pytest.raises(UserError, match=r"x\.png: 42,949,672,960 bytes; at most"):
        read_images([file], 8)


@pytest.mark.parametrize("shape", [(48, 48), (31, 90), (90, 31), (1, 200), (200, 1), (5, 7), (333, 100)])
def test_each_fit_is_pils(shape: tuple[int, int], tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    image.save(tmp_path / "x.png")
    bilinear = Image.Resampling.BILINEAR

    def read(fit: str) -> np.ndarray:
        return read_image(tmp_path / "x.png", 32, Preparation(fit=fit)).permute(1, 2, 0).numpy()  # type: ignore[arg-type]

    np.testing.assert_array_equal(read("squash"), np.asarray(image.resize((32, 32), bilinear)))
    if min(shape) > 1:  # PIL itself gives up on thin ones
        np.testing.assert_array_equal(read("pad"), np.asarray(ImageOps.pad(image, (32, 32), bilinear)))
    assert (read("pad").reshape(-1, 3).max(1) > 0).sum() == pytest.approx(32 * max(1, round(32 * min(shape) / max(shape))), rel=0.1)
    w, h = image.size
    side = min(w, h)
    box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
    np.testing.assert_array_equal(read("crop"), np.asarray(image.resize((32, 32), bilinear, box=box)))
