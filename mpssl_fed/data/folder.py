"""A user's own images: `image-folder` for studies, and the two ways in which a deployed site states its data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mpssl_fed.data.base import DATASETS, Dataset, Images, split_by_key
from mpssl_fed.data.decode import SUFFIXES, read_with_digests
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import sha256

TEST_FRACTION = 0.2
Listing = list[tuple[Path, int, str]]  # file, label, subject ("" where subjects are not stated)


@DATASETS.add("image-folder")
def image_folder(root: Path | None = None, size: int | None = None, subjects: str | None = None) -> Dataset:
    """Return ``root/train/CLASS/*`` and ``root/test/CLASS/*``; without test, a fifth of train is held out by content.

    ``subjects="parent"`` reads ``CLASS/SUBJECT/*`` and keeps each subject on one side of the split. Images are grey if all
    of them are. Mirroring is off, since it may change a label (letters, left and right of a body).
    """
    if root is None:
        raise UserError("data set 'image-folder' needs data.root, a folder with train/CLASS/*.png")
    check_subjects(subjects)
    size = 32 if size is None else size
    classes = tuple(folder.name for folder in _folders(root / "train"))
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} has {len(classes)} class folder(s); at least two are needed, one a class")
    listing = list_classes(root / "train", classes, subjects)
    for label, name in enumerate(classes):
        if not any(row[1] == label for row in listing):
            raise UserError(f"class folder {root / 'train' / name} has no image ({', '.join(SUFFIXES)}); add or remove it")
    if (root / "test").is_dir():
        held_out, note = list_classes(root / "test", classes, subjects), ""
        if not held_out:
            raise UserError(f"{root / 'test'} has no image; fill it, or remove it to hold out a part of train")
    else:
        listing, held_out = _hold_out(listing, len(classes))
        note = f"no folder {root / 'test'}: {len(held_out)} of the {len(listing) + len(held_out)} images in train are held out"
    both = to_images(listing + held_out, size, None, subjects is not None)
    train, test = np.split(np.arange(len(both)), [len(listing)])
    return Dataset("image-folder", classes, both.take(train), both.take(test), flip=False, note=note)


def load_site_folder(root: str | Path, classes: Sequence[str], size: int, channels: int, subjects: str | None = None) -> Images:
    """Return a site's own ``root/CLASS/*`` under the agreed ``classes``; it may lack some of them.

    Raises UserError for a missing folder, a folder that is none of the classes, no image at all, or a broken file.
    """
    root = expanded(root)
    check_subjects(subjects)
    listing = list_classes(root, classes, subjects)
    if not listing:
        raise UserError(f"site folder {root} has no image; expected CLASS/*.png with CLASS among {_some(classes)}")
    return to_images(listing, size, channels, subjects is not None)


def load_site_csv(path: str | Path, classes: Sequence[str], size: int, channels: int) -> Images:
    """Return the images that a CSV file names: columns ``path,label[,subject]``, paths relative to the file's folder.

    Raises UserError with the line number for an unknown label, a missing file, an empty subject or an image named twice
    (which would count double under differential privacy).
    """
    path = expanded(path)
    listing: Listing = []
    seen: dict[Path, int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = tuple(rows.fieldnames or ())
            if set(columns) not in ({"path", "label"}, {"path", "label", "subject"}):
                raise UserError(f"{path}: line 1 must name the columns path,label[,subject], not {','.join(columns)}")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                image = _csv_row(row, path.parent, classes, where)
                if image[0] in seen:
                    raise UserError(f"{where}: {row['path']} is already named on line {seen[image[0]]}; remove one")
                seen[image[0]] = rows.line_num
                listing.append(image)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the site's list {path}: {error}; expected UTF-8 CSV with path,label") from error
    if not listing:
        raise UserError(f"{path} names no image; expected one line a file under the header path,label")
    return to_images(listing, size, channels, "subject" in columns)


def list_classes(root: Path, classes: Sequence[str], subjects: str | None) -> Listing:
    """Return the image files below ``root/CLASS``, sorted; UserError for a missing root or an unknown class."""
    listing: Listing = []
    for folder in _folders(root):
        if folder.name not in classes:
            hint = nearest(folder.name, classes)
            raise UserError(f"{folder}: '{folder.name}' is not a class of this task.{hint} Classes: {_some(classes)}")
        label, loose = list(classes).index(folder.name), _files(folder)
        below = [(path, label, inner.name) for inner in _folders(folder) for path in _files(inner)]
        if subjects and loose:
            raise UserError(f"{loose[0]} lies in no subject folder; with subjects=parent expected {folder}/SUBJECT/")
        if below and not subjects:
            raise UserError(f"{below[0][0]} is one folder too deep; set subjects=parent if '{below[0][2]}' is a subject")
        listing += below if subjects else [(path, label, "") for path in loose]
    return listing


def to_images(listing: Listing, size: int, channels: int | None, with_subjects: bool) -> Images:
    """Decode a listing to Images at ``size`` x ``size``."""
    paths, labels, subjects = zip(*listing, strict=True)
    x, digests = read_with_digests(paths, size, channels)
    return Images(x, torch.tensor(labels, dtype=torch.int64), tuple(subjects) if with_subjects else None, digests)


def check_subjects(subjects: str | None) -> None:
    """Raise UserError for a way of naming subjects that does not exist."""
    if subjects not in (None, "parent"):
        raise UserError(f"data.subjects is '{subjects}'; known: 'parent' (CLASS/SUBJECT/*.png), or leave it out")


def _csv_row(row: dict[str, str], folder: Path, classes: Sequence[str], where: str) -> tuple[Path, int, str]:
    name, label = row["path"] or "", row["label"] or ""
    if None in row:
        raise UserError(f"{where}: more columns than the header names; quote a name that holds a comma")
    if label not in classes:
        hint = nearest(label, classes)
        raise UserError(f"{where}: '{label}' is not a class of this task.{hint} Classes: {_some(classes)}")
    path = (folder / name).resolve()
    if not name or not path.is_file():
        raise UserError(f"{where}: image file '{name}' does not exist (relative paths start at {folder})")
    if row.get("subject", "-") in ("", None):
        raise UserError(f"{where}: the subject is empty; name one for each image, or drop the column")
    return path, list(classes).index(label), row.get("subject", "")


def _hold_out(listing: Listing, classes: int) -> tuple[Listing, Listing]:
    # Keys: the subject, else the content, so that no copy of a training image is tested on.
    keys = [subject or sha256(path) for path, _, subject in listing]
    train, test = split_by_key(np.array([label for _, label, _ in listing]), keys, TEST_FRACTION)
    if not len(test):
        raise UserError(
            f"{len(listing)} images in {classes} classes are too few to hold out a test part; add images to train, or "
            "a folder test/CLASS beside it"
        )
    return [listing[i] for i in train], [listing[i] for i in test]


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"folder {root} does not exist; expected {root}/CLASS/*.png, one folder a class")
    # Names such as .git, __MACOSX or @eaDir are left behind by tools and are no classes.
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__", "@")))


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
