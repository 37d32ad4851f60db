"""The six data sets of the paper in their official file layouts: Aircraft, Birds, Cars, DTD, Flowers, Pets.

Protocol: the author's public configuration for these sets. Training crops come out of 256 x 256 centre squares, tests are
resize 256 and centre crop 224. Official train and validation parts are joined, since a site sets its own validation images
aside. Everything is decoded into memory once, 192 KiB an image in train and 147 KiB in test:

    Aircraft  6,667 + 3,333 images  1.8 GB        DTD      3,760 + 1,880  1.0 GB
    Birds     5,994 + 5,794         2.1 GB        Flowers  2,040 + 6,149  1.3 GB
    Cars      8,144 + 8,041         2.8 GB        Pets     3,680 + 3,669  1.3 GB
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mpssl_fed.data.base import DATASETS, Dataset, Images
from mpssl_fed.data.decode import read_images
from mpssl_fed.data.fetch import fetch_dataset
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.errors import UserError

SIZE = 224
STORED = 256 / 224  # side of a stored training image over the side that the classifier sees

Part = tuple[list[Path], list[int]]
Layout = Callable[[Path], tuple[tuple[str, ...], Part, Part]]  # root -> classes, train, test


def _register(name: str, expected: str) -> Callable[[Layout], Layout]:
    """Register a data set by the function that lists its files; ``expected`` is the folder that ``root`` must hold."""

    def decorate(layout: Layout) -> Layout:
        def reader(root: Path | None = None, size: int | None = None, download: bool = False) -> Dataset:
            if root is None:
                raise UserError(f"data set '{name}' needs data.root, the folder that holds {expected}")
            if download:
                fetch_dataset(name, root)
            try:
                classes, train, test = layout(root)
            except (OSError, RuntimeError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
                raise UserError(
                    f"data set '{name}': {root} does not hold {expected} in full ({type(error).__name__}: {error}). "
                    f"'mpssl-fed fetch {name}' gets it or says where the files belong"
                ) from error
            size = size or SIZE
            stored, test_crop = _decode(train, round(size * STORED), Preparation(), name), Preparation(central=1 / STORED)
            return Dataset(name, classes, stored, _decode(test, size, test_crop, name), flip=True, preparation=test_crop)

        DATASETS.add(name)(reader)
        return layout

    return decorate


def _decode(part: Part, size: int, prepared: Preparation, name: str) -> Images:
    paths, labels = part
    return Images(read_images(paths, size, 3, prepared, f"reading {name}"), torch.tensor(labels, dtype=torch.int64))


def _files_of(part: Any) -> Part:
    """The two lists that torchvision's readers keep."""
    files = part._image_files if hasattr(part, "_image_files") else part._images
    return [Path(path) for path in files], [int(label) for label in part._labels]


def _join(*parts: Part) -> Part:
    return [path for part in parts for path in part[0]], [label for part in parts for label in part[1]]


@_register("aircraft", "fgvc-aircraft-2013b/data")
def _aircraft(root: Path) -> tuple[tuple[str, ...], Part, Part]:
    from torchvision.datasets import FGVCAircraft

    train, test = (FGVCAircraft(root, split) for split in ("trainval", "test"))
    return tuple(train.classes), _files_of(train), _files_of(test)


@_register("birds", "CUB_200_2011")
def _birds(root: Path) -> tuple[tuple[str, ...], Part, Part]:
    """CUB-200-2011: four tables of `image_id value`, joined by the image id."""
    folder = root / "CUB_200_2011"
    paths, labels, in_train, names = (
        dict(line.split(maxsplit=1) for line in (folder / f"{table}.txt").read_text().splitlines() if line.strip())
        for table in ("images", "image_class_labels", "train_test_split", "classes")
    )
    classes = tuple(name.strip().split(".", 1)[-1].replace("_", " ") for name in names.values())
    order = {key: label for label, key in enumerate(names)}
    rows = [(folder / "images" / paths[i].strip(), order[labels[i].strip()], in_train[i].strip() == "1") for i in paths]
    parts = [([p for p, _, t in rows if t is part], [y for _, y, t in rows if t is part]) for part in (True, False)]
    return classes, parts[0], parts[1]


@_register("cars", "stanford_cars with devkit, cars_train, cars_test and cars_test_annos_withlabels.mat")
def _cars(root: Path) -> tuple[tuple[str, ...], Part, Part]:
    from torchvision.datasets import StanfordCars

    train, test = (StanfordCars(root, split) for split in ("train", "test"))
    parts = [([Path(path) for path, _ in part._samples], [int(y) for _, y in part._samples]) for part in (train, test)]
    return tuple(train.classes), parts[0], parts[1]


@_register("dtd", "dtd/dtd with images and labels")
def _dtd(root: Path) -> tuple[tuple[str, ...], Part, Part]:
    from torchvision.datasets import DTD

    train, val, test = (DTD(root, split) for split in ("train", "val", "test"))
    return tuple(train.classes), _join(_files_of(train), _files_of(val)), _files_of(test)


@_register("flowers", "flowers-102 with jpg, imagelabels.mat and setid.mat")
def _flowers(root: Path) -> tuple[tuple[str, ...], Part, Part]:
    from torchvision.datasets import Flowers102

    train, val, test = (Flowers102(root, split) for split in ("train", "val", "test"))
    return tuple(Flowers102.classes), _join(_files_of(train), _files_of(val)), _files_of(test)


@_register("pets", "oxford-iiit-pet with images and annotations")
def _pets(root: Path) -> tuple[tuple[str, ...], Part, Part]:
    from torchvision.datasets import OxfordIIITPet

    train, test = (OxfordIIITPet(root, split) for split in ("trainval", "test"))
    return tuple(train.classes), _files_of(train), _files_of(test)
