"""The six sets of the paper on miniature trees in their official layouts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.errors import UserError


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((30, 44, 3), [value, 255 - value, 9], np.uint8)).save(path, quality=95)


def aircraft(root: Path) -> tuple[list[int], list[int]]:
    data = root / "fgvc-aircraft-2013b" / "data"
    names = ["707-320", "Boeing 717", "A300B4"]
    splits = {"train": [(1, 0), (2, 1)], "val": [(3, 2)], "test": [(4, 2), (5, 0)]}
    splits["trainval"] = splits["train"] + splits["val"]
    data.mkdir(parents=True)
    (data / "variants.txt").write_text("".join(f"{name}\n" for name in names))
    for split, rows in splits.items():
        (data / f"images_variant_{split}.txt").write_text("".join(f"{i:07d} {names[y]}\n" for i, y in rows))
        for i, y in rows:
            picture(data / "images" / f"{i:07d}.jpg", 40 * y)
    return [0, 1, 2], [2, 0]


def birds(root: Path) -> tuple[list[int], list[int]]:
    folder = root / "CUB_200_2011"
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    rows = [(1, 0, 1), (2, 1, 0), (3, 0, 0), (4, 1, 1), (5, 1, 1)]
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"{k + 1} {name}\n" for k, name in enumerate(classes)))
    (folder / "images.txt").write_text("".join(f"{i} {classes[y]}/bird_{i:04d}.jpg\n" for i, y, _ in rows))
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {y + 1}\n" for i, y, _ in rows))
    (folder / "train_test_split.txt").write_text("".join(f"{i} {train}\n" for i, _, train in rows))
    for i, y, _ in rows:
        picture(folder / "images" / classes[y] / f"bird_{i:04d}.jpg", 40 * y)
    return [0, 1, 1], [1, 0]


def cars(root: Path) -> tuple[list[int], list[int]]:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(names, dtype=object)})
    kind = [("bbox_x1", "O"), ("bbox_y1", "O"), ("bbox_x2", "O"), ("bbox_y2", "O"), ("class", "O"), ("fname", "O")]
    files = {"train": base / "devkit" / "cars_train_annos.mat", "test": base / "cars_test_annos_withlabels.mat"}
    for split, labels in (("train", [0, 1, 1]), ("test", [1, 0])):
        rows = [(1, 1, 9, 9, y + 1, f"{i + 1:05d}.jpg") for i, y in enumerate(labels)]
        savemat(files[split], {"annotations": np.array([rows], dtype=kind)})
        for row in rows:
            picture(base / f"cars_{split}" / row[5], 40 * (row[4] - 1))
    return [0, 1, 1], [1, 0]


def dtd(root: Path) -> tuple[list[int], list[int]]:
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    names = ["banded", "zigzagged"]
    for split, labels in (("train", [0, 1]), ("val", [1, 0]), ("test", [1, 0, 0])):
        lines = [f"{names[y]}/{names[y]}_{split}_{i}.jpg" for i, y in enumerate(labels)]
        (base / "labels" / f"{split}1.txt").write_text("".join(f"{line}\n" for line in lines))
        for line, y in zip(lines, labels, strict=True):
            picture(base / "images" / line, 40 * y)
    return [0, 1, 1, 0], [1, 0, 0]


def flowers(root: Path) -> tuple[list[int], list[int]]:
    base = root / "flowers-102"
    base.mkdir(parents=True)
    labels = [0, 101, 5, 7, 0, 3]
    savemat(base / "imagelabels.mat", {"labels": np.array([labels]) + 1})
    savemat(base / "setid.mat", {"trnid": np.array([[1, 2]]), "valid": np.array([[4, 6]]), "tstid": np.array([[5, 3]])})
    for i, y in enumerate(labels, 1):
        picture(base / "jpg" / f"image_{i:05d}.jpg", 2 * y)
    return [0, 101, 7, 3], [0, 5]


def pets(root: Path) -> tuple[list[int], list[int]]:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    names = ["Abyssinian", "american_bulldog", "great_pyrenees"]
    for split, labels in (("trainval", [0, 1, 2]), ("test", [2, 0])):
        ids = [(f"{names[y]}_{split}{i}".replace("test", "9"), y) for i, y in enumerate(labels)]
        ids = [(name.replace("trainval", "1"), y) for name, y in ids]
        (base / "annotations" / f"{split}.txt").write_text("".join(f"{name} {y + 1} 1 1\n" for name, y in ids))
        for name, y in ids:
            picture(base / "images" / f"{name}.jpg", 40 * y)
    return [0, 1, 2], [2, 0]


LAYOUTS: dict[str, Callable[[Path], tuple[list[int], list[int]]]] = {
    "aircraft": aircraft, "birds": birds, "cars": cars, "dtd": dtd, "flowers": flowers, "pets": pets,
}  # fmt: skip
SPLIT_FILES = {
    "aircraft": "fgvc-aircraft-2013b/data/images_variant_trainval.txt",
    "birds": "CUB_200_2011/train_test_split.txt",
    "cars": "stanford_cars/cars_test_annos_withlabels.mat",
    "dtd": "dtd/dtd/labels/val1.txt",
    "flowers": "flowers-102/setid.mat",
    "pets": "oxford-iiit-pet/annotations/test.txt",
}


def build(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    labels = LAYOUTS[name](root)
    if name == "flowers":
        from torchvision.datasets import Flowers102

        # torchvision checks the two .mat files by their published sums; here they are miniatures.
        sums = {
            part: (file, hashlib.md5((root / "flowers-102" / file).read_bytes()).hexdigest() if part != "image" else md5)
            for part, (file, md5) in Flowers102._file_dict.items()
        }
        monkeypatch.setattr(Flowers102, "_file_dict", sums)
    return labels


@pytest.mark.parametrize("name", LAYOUTS)
def test_official_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = build(name, tmp_path, monkeypatch)
    data = load_dataset(name, root=tmp_path, size=56)
    assert data.train.y.tolist() == train
    assert data.test.y.tolist() == test
    assert data.train.x.shape[1:] == (3, 64, 64)  # 256 : 224
    assert data.test.x.shape[1:] == (3, 56, 56)
    assert (data.size, data.channels, data.flip) == (56, 3, True)
    # Each image's colour tells its class, so file and label were not mixed up.
    step = 2 if name == "flowers" else 40
    for part in (data.train, data.test):
        assert torch.allclose(part.x[:, 0].float().mean((1, 2)), step * part.y.float(), atol=4)


def test_default_sizes_are_the_protocol_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("birds", tmp_path, monkeypatch)
    data = load_dataset("birds", root=tmp_path)
    assert (data.train.x.shape[-1], data.test.x.shape[-1], data.size) == (256, 224, 224)
    assert data.classes == ("Black footed Albatross", "Laysan Albatross")


@pytest.mark.parametrize("name", LAYOUTS)
def test_missing_split_file_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(name, tmp_path, monkeypatch)
    (tmp_path / SPLIT_FILES[name]).unlink()
    with pytest.raises(UserError, match=rf"data set '{name}': .* does not hold .* in full .*mpssl-fed fetch {name}"):
        load_dataset(name, root=tmp_path, size=56)


def test_missing_and_corrupt_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("dtd", tmp_path, monkeypatch)
    image = tmp_path / "dtd" / "dtd" / "images" / "banded" / "banded_train_0.jpg"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(UserError, match=r"banded_train_0.jpg cannot be decoded"):
        load_dataset("dtd", root=tmp_path, size=56)
    image.unlink()
    with pytest.raises(UserError, match=r"banded_train_0.jpg does not exist"):
        load_dataset("dtd", root=tmp_path, size=56)


def test_broken_birds_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("birds", tmp_path, monkeypatch)
    (tmp_path / "CUB_200_2011" / "image_class_labels.txt").write_text("1 1\n2 9\n")
    with pytest.raises(UserError, match=r"does not hold CUB_200_2011 in full \(KeyError"):
        load_dataset("birds", root=tmp_path)


def test_download_touches_no_network_where_the_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("birds", tmp_path / "here", monkeypatch)
    assert len(load_dataset("birds", root=tmp_path / "here", size=56, download=True).train) == 3
    with pytest.raises(UserError, match=r"names no address for it. Put its official files at .*gone/CUB_200_2011"):
        load_dataset("birds", root=tmp_path / "gone", download=True)
