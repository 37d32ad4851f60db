"""A user's own images in folders: `image-folder` for studies, and a deployed site's ``CLASS/*``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpssl_fed.config.data import Fit
from mpssl_fed.data.base import DATASETS, Dataset, Images, split_by_key
from mpssl_fed.data.classes import class_name, class_of, refuse_alike
from mpssl_fed.data.decode import SUFFIXES
from mpssl_fed.data.formats.dicom import PATIENT_ID, patient
from mpssl_fed.data.listing import Digests, Files, Listing, note_leaks, once, to_parts, without_image
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.data.site_csv import load_site_csv, site_csv
from mpssl_fed.data.subjects import refuse_lookalikes, refuse_on_both_sides, subject_name
from mpssl_fed.data.walk import BESIDE, DEAD, DEEP, FAR, LOOP, OTHER, SPECIAL, Skipped, deep_images, entries, without_loops
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import sha256
from mpssl_fed.names import shown, some

__all__ = [
    "Files", "check_subjects", "image_folder", "list_classes", "load_site_csv", "load_site_folder", "site_csv", "site_folder",
]  # fmt: skip

TEST_FRACTION = 0.2
BESIDE_PARTS = "beside the folders train and test"
PARENT = "parent"
LOST = (OTHER, DEAD, SPECIAL, DEEP, FAR, LOOP)
"""Reasons for which what a user takes for an image is left out."""


@DATASETS.add("image-folder")
def image_folder(
    root: Path | None = None,
    size: int | None = None,
    subjects: str | None = None,
    fit: Fit = "crop",
    white_level: float | None = None,
    window: tuple[float, float] | None = None,
) -> Dataset:
    """Return ``root/train/CLASS/*`` and ``root/test/CLASS/*``; without test, a fifth of train is held out by content.

    ``subjects="parent"`` reads ``CLASS/SUBJECT/*`` (``"dicom-patient-id"``: the patients of DICOM files) and keeps each subject on
    one side of the split; a test folder that shares one with train is refused. An image counts once, whatever links and copies
    there are. Images are grey if all of them are. Mirroring is off, since it may change a label (letters, left and right of a
    body). ``skipped`` holds what was left out.
    """
    if root is None:
        raise UserError("data set 'image-folder' needs data.root, a folder with train/CLASS/*.png")
    check_subjects(subjects)
    size = 32 if size is None else size
    prepared, skipped, digests = Preparation(fit=fit, white_level=white_level, window=window), Skipped(), Digests()
    classes = tuple(class_name(folder) for folder in _class_folders(root / "train", Skipped()))
    if len(classes) < 2:
        raise UserError(f"{shown(root / 'train')} has {len(classes)} class folder(s); at least two are needed, one per class")
    _note_beside(root, skipped)
    listing = once(list_classes(root / "train", classes, subjects, skipped), skipped, classes, digests=digests)
    for name in without_image(listing, classes):
        raise UserError(f"class folder {shown(root / 'train' / name)} {_no_image()}; add or remove it")
    if _is_there(root / "test"):
        held_out = once(list_classes(root / "test", classes, subjects, skipped), skipped, classes, digests=digests)
        if not held_out:
            raise UserError(f"{shown(root / 'test')} has no image; fill it, or remove it to hold out a part of train")
        note_leaks(listing, held_out, skipped, digests)
        if subjects is not None:
            refuse_lookalikes((subject, shown(path)) for path, _, subject in listing + held_out)
            refuse_on_both_sides((row[2] for row in listing), (row[2] for row in held_out), shown(root))
        absent = without_image(held_out, classes)
        note = f"{shown(root / 'test')} has no image of {some(absent)}" if absent else ""
    else:
        listing, held_out = hold_out(listing, len(classes), "or a folder test/CLASS beside it")
        said = shown(root / "test")
        note = f"no folder {said}: {len(held_out)} of the {len(listing) + len(held_out)} images in train are held out"
    train, test = to_parts(listing, held_out, size, subjects is not None, prepared)
    return Dataset("image-folder", classes, train, test, flip=False, note=note, preparation=prepared, skipped=skipped)


def load_site_folder(
    root: str | Path,
    classes: Sequence[str],
    size: int,
    channels: int,
    subjects: str | None = None,
    prepared: Preparation | None = None,
) -> Images:
    """Return the images of :func:`site_folder`, decoded."""
    return site_folder(root, classes, subjects).read(size, channels, prepared)


def site_folder(root: str | Path, classes: Sequence[str], subjects: str | None = None) -> Files:
    """Return a site's own ``root/CLASS/*`` under the agreed ``classes``; it may lack some of them.

    Raises UserError for a missing folder, a folder that is none of the classes, a class that lost all its images, no image at all,
    an image in two classes, or subjects whose names look alike.
    """
    root, skipped = expanded(root), Skipped()
    check_subjects(subjects)
    rows = once(list_classes(root, classes, subjects, skipped), skipped, classes)
    if not rows:
        raise UserError(f"site folder {shown(root)} has no image; expected CLASS/*.png with CLASS among {some(classes)}")
    return Files(rows, subjects is not None, skipped)


def list_classes(root: Path, classes: Sequence[str], subjects: str | None, skipped: Skipped | None = None) -> Listing:
    """Return the image files below ``root/CLASS``, sorted; what else lies there goes to ``skipped``.

    Raises UserError for a missing root, an unknown class, a class folder all of whose images would be left out, and with
    ``subjects`` for folders that name nobody or look alike.
    """
    skipped, listing, known = Skipped() if skipped is None else skipped, Listing(), list(classes)
    folders = _class_folders(root, skipped)
    refuse_alike(folders)
    for folder in folders:
        name = class_name(folder)
        label = class_of(name, known)
        if label is None:
            hint = nearest(name, classes)
            raise UserError(f"{shown(folder)}: '{shown(name)}' is not a class of this task.{hint} Classes: {some(classes)}")
        rows = _of_class(root, folder, known.index(label), subjects, skipped)
        lost = skipped.within(folder, LOST)
        if not rows and lost:
            left = "; ".join(f"{len(paths)} {reason}: {some(paths, 3)}" for reason, paths in lost.items())
            raise UserError(f"class folder {shown(folder)} {_no_image()}; add or remove it. Left out there: {left}")
        listing += rows
    if subjects:
        refuse_lookalikes((subject, shown(path)) for path, _, subject in listing)
    return listing


def check_subjects(subjects: str | None) -> None:
    """Raise UserError for a way of naming subjects that does not exist."""
    if subjects not in (None, PARENT, PATIENT_ID):
        raise UserError(
            f"data.subjects is '{subjects}'; known: '{PARENT}' (CLASS/SUBJECT/*.png), '{PATIENT_ID}' (CLASS/*.dcm), or leave it out"
        )


def _of_class(root: Path, folder: Path, label: int, subjects: str | None, skipped: Skipped) -> Listing:
    folders, loose = entries(folder, skipped)
    folders = without_loops(folders, (root, folder), skipped)
    if subjects != PARENT:
        for inner in folders:
            _, images = entries(inner, Skipped())
            if images:
                cure = f"set data.subjects=parent (site, evaluate, audit: --subjects parent) if '{shown(inner.name)}' is a subject"
                raise UserError(f"{shown(images[0])} is one folder too deep; {cure}")
        deep_images(folders, skipped)
        return [(path, label, patient(path) if subjects else "") for path in loose]
    if loose:
        raise UserError(f"{shown(loose[0])} lies in no subject folder; with data.subjects=parent expected {shown(folder)}/SUBJECT/")
    rows: Listing = []
    for inner in folders:
        deeper, images = entries(inner, skipped)
        deep_images(without_loops(deeper, (root, folder, inner), skipped), skipped)
        subject = subject_name(class_name(inner))
        if subject is None and images:
            raise UserError(f"{shown(inner)}: the folder's name names no subject; call it by the subject whose images it holds")
        rows += [(path, label, subject or "") for path in images]
    return rows


def _class_folders(root: Path, skipped: Skipped) -> list[Path]:
    """Return the folders in ``root``; what lies beside them goes to ``skipped``. UserError for a dead link, once a class maybe."""
    if not root.is_dir():
        how = "is a file, FIFO or device, no folder" if root.exists() else "does not exist"
        raise UserError(f"folder {shown(root)} {how}; expected {shown(root)}/CLASS/*.png, one folder per class{_instead(root)}")
    here = Skipped()
    folders, images = entries(root, here)
    for link in here.found.get(DEAD, ()):
        raise UserError(
            f"{shown(link)} is a link to {shown(link.readlink())}, which is not there; was it a class? Bring back what it leads "
            "to, or remove it"
        )
    skipped.add(BESIDE, *images)
    for reason, paths in here.found.items():
        skipped.add(reason, *paths)
    return without_loops(folders, (root,), skipped)


def _instead(part: Path) -> str:
    """Return which folder was meant where ``part`` (ROOT/train) is not there: the one that is ROOT itself, or in other letters."""
    if part.parent.name.lower() == part.name:
        return f". It is the folder above that is wanted: data.root={shown(part.parent.parent)}"
    alike = (
        [item for item in part.parent.iterdir() if item.name != part.name and item.name.lower() == part.name]
        if part.parent.is_dir()
        else []
    )
    return f". Rename {shown(alike[0])}" if alike else ""


def _is_there(folder: Path) -> bool:
    """Return whether there is such a folder; UserError for a file or a dead link of that name, which nobody meant as nothing."""
    if not folder.is_dir() and (folder.is_symlink() or folder.exists()):
        what = f"a link to {shown(folder.readlink())}, which is not there" if folder.is_symlink() else "no folder"
        raise UserError(f"{shown(folder)} is {what}; want test/CLASS/*.png, or nothing of that name to hold out a part of train")
    return folder.is_dir()


def _note_beside(root: Path, skipped: Skipped) -> None:
    """Note folders and images that lie beside train and test: a folder ``val`` that nobody reads."""
    folders, images = entries(root, Skipped())
    skipped.add(BESIDE_PARTS, *(item for item in folders if item.name not in ("train", "test")), *images)


def hold_out(listing: Listing, classes: int, instead: str) -> tuple[Listing, Listing]:
    """Return (train, test) by subject, else by content, so that no copy of a training image is tested on."""
    keys = [subject or sha256(path) for path, _, subject in listing]
    train, test = split_by_key(np.array([label for _, label, _ in listing]), keys, TEST_FRACTION)
    if not len(test):
        raise UserError(
            f"{len(listing)} images in {classes} classes are too few to hold out a test part; add images to train, {instead}"
        )
    return [listing[i] for i in train], [listing[i] for i in test]


def _no_image() -> str:
    return f"has no image ({', '.join(SUFFIXES)})"
