"""What a dry run knows of data sets that it does not decode: classes, images, shape.

Numbers of images are those of the official train (with validation) and test parts: Aircraft arXiv 1306.5151, Birds (CUB-200-2011)
Caltech CNS-TR-2011-001, Cars Krause et al. 2013, DTD arXiv 1311.3618, Flowers Nilsback and Zisserman 2008, Pets Parkhi et al. 2012,
CIFAR-10 Krizhevsky 2009, Fashion-MNIST arXiv 1708.07747. mnist-5k: 500 digits per class, of which the reader puts 300 into train.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mpssl_fed.config import Config
from mpssl_fed.data.base import split_by_key
from mpssl_fed.data.decode import SUFFIXES
from mpssl_fed.data.folder import PARENT, TEST_FRACTION
from mpssl_fed.data.formats.dicom import PATIENT_ID, patient
from mpssl_fed.data.formats.dicom import SUFFIXES as OF_DICOM
from mpssl_fed.data.image_csv import sides
from mpssl_fed.data.omniglot import DRAWERS, LAST_TRAINED, find
from mpssl_fed.data.site_csv import read_list
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError
from mpssl_fed.files import plain_file


@dataclass(frozen=True)
class KnownData:
    """Classes, training and test images in all, channels, default side in pixels, and whether training images are stored larger."""

    classes: int
    train: int
    test: int
    channels: int = 3
    size: int = 224
    stored: float = 256 / 224
    flip: bool = True
    counts: tuple[int, ...] = ()
    """Training images of each class, where they are known one by one."""
    subjects: tuple[str, ...] | None = None
    """The subject of each of these, class by class or in ``order``, where they name any."""
    order: tuple[int, ...] = ()
    """The class of each of these, where they do not stand class by class."""
    sites: tuple[str, ...] | None = None
    """Who holds each of these, where a list says it."""

    def labels(self) -> np.ndarray:
        """Return training labels [train]: as counted, else as even as they go; the official ones differ by a few images."""
        if self.order:
            return np.array(self.order)
        if self.counts:
            return np.repeat(np.arange(self.classes), self.counts)
        return np.sort(np.arange(self.train) % self.classes)

    def validation_split(self, fraction: float) -> KnownData:
        """Return the set with ``fraction`` of each training class held out in place of the test set."""
        if self.subjects is not None:
            return self._without(split_by_key(self.labels(), self.subjects, fraction)[1])
        if self.order:  # by their pixels, which nobody knows yet: any as many stand for them
            return self._without(split_by_key(self.labels(), [str(i) for i in range(self.train)], fraction)[1])
        counts = np.bincount(self.labels(), minlength=self.classes).tolist()
        held_out = [max(0, min(round(fraction * count), count - 1)) for count in counts]
        left = tuple(count - out for count, out in zip(counts, held_out, strict=True)) if self.counts else ()
        return replace(self, train=self.train - sum(held_out), test=sum(held_out), counts=left)

    def _without(self, tested: np.ndarray) -> KnownData:
        """Return the set with the training images ``tested`` held out in place of the test set."""
        rest = np.setdiff1d(np.arange(self.train), tested)
        counts = np.bincount(self.labels()[rest], minlength=self.classes).tolist()
        subjects, sites = (None if of is None else tuple(of[i] for i in rest.tolist()) for of in (self.subjects, self.sites))
        order = tuple(self.order[i] for i in rest.tolist()) if self.order else ()
        left = replace(self, train=len(rest), test=len(tested), counts=tuple(counts))
        return replace(left, subjects=subjects, sites=sites, order=order)

    def stored_bytes(self, size: int) -> int:
        """Return the bytes of all images in memory at ``size`` x ``size`` pixels."""
        return self.channels * (self.train * round(size * self.stored) ** 2 + self.test * size**2)


KNOWN = {
    "aircraft": KnownData(100, 6667, 3333),
    "birds": KnownData(200, 5994, 5794),
    "cars": KnownData(196, 8144, 8041),
    "dtd": KnownData(47, 3760, 1880),
    "flowers": KnownData(102, 2040, 6149),
    "pets": KnownData(37, 3680, 3669),
    "cifar10": KnownData(10, 50_000, 10_000, size=32, stored=1),
    "fashion-mnist": KnownData(10, 60_000, 10_000, channels=1, size=32, stored=1),
    "mnist-5k": KnownData(10, 3000, 2000, channels=1, size=32, stored=1, flip=False),
}


def known_data(config: Config) -> KnownData | None:
    """Return what is known of the data set of ``config``: of an image folder, a list or an alphabet that is here by its files.

    UserError for a list that a run would refuse.
    """
    data = config.data
    if data.name.startswith("omniglot/"):
        return _of_alphabet(expanded(data.root), data.name.partition("/")[2]) if data.root else None
    if data.name == "image-csv":
        return _of_list(expanded(data.root), data.subjects) if data.root else None
    if data.name != "image-folder":
        return KNOWN.get(data.name)
    return _of_folder(expanded(data.root), data.subjects) if data.root else None


@cache
def _of_alphabet(root: Path, alphabet: str) -> KnownData | None:
    found = find(root, alphabet)
    if found is None:
        return None
    classes = len({character for character, _, _ in found[0].alphabets[found[1]]})
    train, test = classes * LAST_TRAINED, classes * (DRAWERS - LAST_TRAINED)
    drawers = tuple(str(drawer) for drawer in range(LAST_TRAINED)) * classes
    counts = (LAST_TRAINED,) * classes
    return KnownData(classes, train, test, channels=1, size=32, stored=1, flip=False, counts=counts, subjects=drawers)


@cache
def _of_folder(root: Path, subjects: str | None) -> KnownData | None:
    if not (root / "train").is_dir():
        return None
    train = {folder.name: _images(folder, subjects) for folder in _folders(root / "train")}
    test = sum(len(_images(folder, subjects)) for folder in _folders(root / "test"))
    counts = [len(files) for files in train.values()]
    try:
        people = tuple(_subject(file, subjects) for files in train.values() for file in files) if subjects else None
    except UserError:
        return None  # the run will say it
    if len(counts) < 2 or not min(counts):
        return None  # the run will say what is wrong with the folder
    grey = all(_is_grey(files[0]) for files in train.values())
    shape: dict[str, Any] = {"channels": 1 if grey else 3, "size": 32, "stored": 1.0, "flip": False, "subjects": people}
    whole = KnownData(len(counts), sum(counts), test, **shape, counts=tuple(counts))
    return whole if test else whole.validation_split(TEST_FRACTION)


@cache
def _of_list(root: Path, subjects: str | None) -> KnownData | None:
    if not root.is_file():
        return None
    found = read_list(root, subjects=subjects)
    train, test = sides(found, root)
    order = tuple(label for _, label, _ in train)
    firsts = {label: path for path, label, _ in reversed(train)}
    return KnownData(
        len(found.classes),
        len(train),
        len(test),
        channels=1 if all(map(_is_grey, firsts.values())) else 3,
        size=32,
        stored=1.0,
        flip=False,
        counts=tuple(np.bincount(order, minlength=len(found.classes)).tolist()),
        subjects=tuple(subject for _, _, subject in train) if found.with_subjects else None,
        order=order,
        sites=None if found.site is None else tuple(found.site[path] for path, _, _ in train),
    )


def _subject(file: Path, subjects: str) -> str:
    return patient(file) if subjects == PATIENT_ID else file.parent.name


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")) if folder.is_dir() else []


def _images(folder: Path, subjects: str | None) -> list[Path]:
    inner = _folders(folder) if subjects == PARENT else [folder]
    found = (path for place in inner for path in place.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if not path.name.startswith(".") and path.is_file())


def _is_grey(file: Path) -> bool:
    """Whether the header of an image says that it has no colour; a file that is no image is told when it is decoded."""
    if file.suffix.lower() in OF_DICOM:
        return True  # nearly all of it
    try:
        with Image.open(plain_file(file)) as image:
            return image.mode in ("1", "L", "I", "F", "I;16", "I;16B", "LA")
    except OSError:
        return False
