"""MedMNIST's npz files: the twelve 2-D sets by name, and any other file of their form (https://medmnist.com)."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mpssl_fed.data.base import DATASETS, Dataset, Images
from mpssl_fed.data.fetch import ARCHIVES, Archive, check_first_use, fetch_dataset
from mpssl_fed.data.formats.medmnist_table import KNOWN, MULTI_LABEL, ORDINAL, Known
from mpssl_fed.data.mnist import resize
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.names import shown

URL = "https://zenodo.org/records/10519652/files/{}.npz?download=1"
SIDES = ("", "_64", "_128", "_224")
"""Ends of a file's name: of 28 pixels a side, and of more."""


@DATASETS.add("medmnist")
def medmnist(root: Path | None = None, size: int | None = None, variant: str | None = None, download: bool = False) -> Dataset:
    """Return ``root/VARIANT.npz`` of MedMNIST (https://medmnist.com): ``medmnist/bloodmnist``, ``medmnist/bloodmnist_64``.

    Its train and val parts are joined, since each site sets its own validation images aside. Default size: 32 for the
    28-pixel files, else the file's own. Mirroring is off: it swaps the sides of a body. The note says task and licence, and where a
    file has another number of images than the official one. A file of a name that is none of the twelve has numbers for classes.
    Raises UserError for a set of several labels an image, 3-D sets, and a file that is none of MedMNIST's or was changed.
    """
    if not variant or "/" in variant or root is None:
        raise UserError(
            f"data set 'medmnist{'/' + variant if variant else ''}': write data.name as medmnist/NAME (for example "
            f"medmnist/bloodmnist) and data.root as the folder that holds NAME.npz. Known: {', '.join(KNOWN)}"
        )
    if reason := refused(variant):
        raise UserError(f"data set 'medmnist/{variant}': {reason}")
    known, path = of_name(variant), root / f"{variant}.npz"
    if known and download and not path.is_file():
        fetch_dataset(variant, root)
    if not path.is_file():
        how = f"mpssl-fed fetch {variant} --root {shown(root)}" if known else f"it is none that is known.{nearest(variant, KNOWN)}"
        raise UserError(f"data set 'medmnist/{variant}': {shown(path)} does not exist; {how}")
    check_first_use(path)
    parts = {}
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            for part in ("train", "val", "test"):
                parts[part] = _part(file[f"{part}_images"], file[f"{part}_labels"], path, part)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a MedMNIST file with train, val and test arrays ({error}); fetch it again") from error
    side, channels = parts["test"].x.shape[-1], parts["test"].x.shape[1]
    if known and known.channels != channels:
        raise UserError(f"{path}: {channels} channel(s), but {variant} has {known.channels}; it is another set. Fetch it again")
    size = size or (32 if side == 28 else side)
    x, y = (torch.cat([getattr(parts[part], key) for part in ("train", "val")]) for key in ("x", "y"))
    test = Images(resize(parts["test"].x, size), parts["test"].y)
    classes = known.classes if known else tuple(str(label) for label in range(int(max(y.max(), test.y.max())) + 1))
    note = _note(variant, known, [len(parts[part]) for part in ("train", "val", "test")]) if known else ""
    return Dataset(f"medmnist/{variant}", classes, Images(resize(x, size), y), test, flip=False, note=note)


def of_name(variant: str) -> Known | None:
    """Return what is published of ``bloodmnist`` or ``bloodmnist_64``; None for another name."""
    name, mark, side = variant.partition("_")
    return KNOWN.get(name) if mark + side in SIDES else None


def refused(variant: str) -> str:
    """Return why a set of MedMNIST cannot be learnt from here; "" where it can, or is not known."""
    known = of_name(variant)
    if known and known.task == MULTI_LABEL:
        return (
            f"it has {len(known.classes)} findings of which an image may show several or none (multi-label), and here an image has "
            f"one class; choose another of {', '.join(name for name, one in KNOWN.items() if one.task != MULTI_LABEL)}"
        )
    return "volumes of 3-D, and images are read here; choose a 2-D set" if variant.partition("_")[0].endswith("mnist3d") else ""


def _note(variant: str, known: Known, images: list[int]) -> str:
    ordinal = " (grades in an order, of which accuracy and the loss know nothing)" if known.task == ORDINAL else ""
    note = f"{variant}: {known.task}{ordinal}, licence {known.licence}"
    if tuple(images) == known.images:
        return note
    official = ", ".join(f"{one:,}" for one in known.images)
    return f"{note}; not the official file, which has {official} images to train, validate and test, here {images}"


def _part(images: np.ndarray, labels: np.ndarray, path: Path, part: str) -> Images:
    if labels.ndim != 2 or labels.shape[1] != 1:
        raise UserError(f"{path}: {part}_labels {list(labels.shape)} are not one class an image; choose another set")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise UserError(f"{path}: {part}_images {images.dtype} {list(images.shape)} are not 2-D images, grey or colour")
    x = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Images(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(labels[:, 0].astype(np.int64)))


def _archive(variant: str, md5: str) -> list[Archive]:
    return [Archive(URL.format(variant), md5, first_use=True)]


def _register() -> None:
    for name, known in KNOWN.items():
        for end, md5 in zip(SIDES, known.md5, strict=True):
            if known.task != MULTI_LABEL:
                made: Callable[[], list[Archive]] = partial(_archive, name + end, md5)
                ARCHIVES.add(name + end)(made)


_register()
DATA_NAMES = {name + end: f"medmnist/{name}{end}" for name in KNOWN for end in SIDES}
"""What ``data.name`` is for each name that ``fetch`` takes here."""
