"""`image-csv`: images of one or many sites as a list ``path,label[,subject][,site][,split]``, as multi-centre data come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mpssl_fed.config.data import Fit
from mpssl_fed.data.base import DATASETS, Dataset
from mpssl_fed.data.folder import hold_out
from mpssl_fed.data.listing import Listing, to_parts, without_image
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.data.site_csv import List, read_list
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown, some


@DATASETS.add("image-csv")
def image_csv(
    root: Path | None = None,
    size: int | None = None,
    subjects: str | None = None,
    fit: Fit = "crop",
    white_level: float | None = None,
    window: tuple[float, float] | None = None,
) -> Dataset:
    """Return the images that the CSV file ``root`` names (:func:`mpssl_fed.data.site_csv.read_list`).

    Its column ``split`` says what is tested on; without one a fifth is held out, by subject where the list names them or
    ``subjects="dicom-patient-id"`` takes the patients of its DICOM files, else by content. Images know the ``site`` that holds
    them, for data.partition.name=column. Images are grey if all of them are; mirroring is off, since it may change a label.
    """
    if root is None or root.is_dir():
        raise UserError("data set 'image-csv' needs data.root, a CSV file with the columns path,label[,subject][,site][,split]")
    found = read_list(root, subjects=subjects)
    train, test = sides(found, root)
    absent = without_image(test, found.classes)
    note = f"{shown(root)} has no test image of {some(absent)}" if absent else ""
    if found.test is None:
        note = f"{shown(root)} has no column split: {len(test)} of its {len(found.train)} images are held out"
    prepared = Preparation(fit=fit, white_level=white_level, window=window)
    trained, tested = to_parts(train, test, 32 if size is None else size, found.with_subjects, prepared)
    if found.site is not None:
        trained = replace(trained, sites=tuple(found.site[path] for path, _, _ in train))
    return Dataset("image-csv", found.classes, trained, tested, flip=False, note=note, preparation=prepared, skipped=found.skipped)


def sides(found: List, root: Path) -> tuple[Listing, Listing]:
    """Return (train, test) of a list, a fifth held out where it has no column ``split``; UserError where nothing is tested on."""
    test = found.tested(root)
    return hold_out(found.train, len(found.classes), "or a column split") if test is None else (found.train, test)
