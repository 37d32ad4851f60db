"""Images as a CSV file, of one site or of many: ``path,label[,subject][,site][,split]``, each fault named by its line."""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.data.base import Images
from mpssl_fed.data.classes import class_of
from mpssl_fed.data.csv_lines import Line, read_lines
from mpssl_fed.data.formats.dicom import PATIENT_ID, patient
from mpssl_fed.data.listing import Digests, Files, Listing, Row, note_leaks, once
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.data.subjects import MISSING, likeness, refuse_lookalikes, scripts, subject_name
from mpssl_fed.data.walk import HELD_OUT, TRAINED_ON, Skipped
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.names import brief, shown, some

REQUIRED, OPTIONAL = ("path", "label"), ("subject", "site", "split")
TRAIN, TEST = "train", "test"
NO_LABEL = MISSING - {"none", "nil", "-"}
"""What stands for a missing label; the others may well be the name of a class."""

COMMENT = " Is it a comment? A list has none: remove the line."

WRONG = (
    (r"(?i)^(#?n/a|nan|null|none|<na>)$", " Is it missing? Name the file, or remove the line."),
    (r"\\", " Write folders with '/'."),
    (r"^[A-Za-z]:/", " It begins with a drive of Windows: write it as this machine has it."),
    (r"^[A-Za-z][A-Za-z0-9+.-]*://", " It is an address: name a file of this machine."),
    (r"^[~$%]", " Nothing is put in for ~ and $: write the path out."),
    ("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]", " It holds characters that do not show."),
    (r"^#", COMMENT),
    ("^['`\u201c\u201e\u2018]", ' Quotes of a list are ".'),
)
"""What a path may hold that leads nowhere, and what then is likely wrong with it."""


@dataclass(frozen=True)
class List:
    """What a list names. test: None where it has no column ``split``; site: of each training image (not to_train: of the images
    that name one), None without such a column; with_subjects: whether it, or its DICOM files, name subjects; names: of the sites,
    as a person would sort them."""

    classes: tuple[str, ...]
    train: Listing
    test: Listing | None
    site: dict[Path, str] | None
    with_subjects: bool
    skipped: Skipped

    @property
    def names(self) -> list[str]:
        """The sites that the list names."""
        return [] if self.site is None else natural_order(self.site.values())

    def tested(self, path: Path) -> Listing | None:
        """Return the images of the test split, None where there is no column ``split``; UserError where it names none."""
        if self.test is not None and not self.test:
            raise UserError(f"{shown(path)}: its column split says train everywhere; name test images, or drop the column")
        return self.test


def load_site_csv(
    path: str | Path, classes: Sequence[str], size: int, channels: int, prepared: Preparation | None = None
) -> Images:
    """Return the images of :func:`site_csv`, decoded."""
    return site_csv(path, classes).read(size, channels, prepared)


def site_csv(path: str | Path, classes: Sequence[str], subjects: str | None = None) -> Files:
    """Return the images of one site that a CSV file names for training; those of its test split are held out.

    Raises UserError as :func:`read_list`, and for a list that names several sites: each reads its own images alone.
    """
    found = read_list(path, classes, subjects)
    if len(found.names) > 1:
        raise UserError(
            f"{shown(path)} is a list of {len(found.names)} sites ({some(found.names, 3)}); a deployed site reads its own images "
            "alone: give it the lines of its own"
        )
    if not found.train:
        raise UserError(f"{shown(path)} names no image to train on; its column split says test everywhere")
    found.skipped.add(HELD_OUT, *(row[0] for row in found.test or ()))
    return Files(found.train, found.with_subjects, found.skipped)


def read_list(path: str | Path, classes: Sequence[str] | None = None, subjects: str | None = None, to_train: bool = True) -> List:
    """Return the images that a CSV file names: columns ``path,label``, paths absolute or relative to the file's folder.

    ``subject``: whose images must not be parted; ``site``: who holds it; ``split``: train or test. classes: by default those of
    the training images, sorted. subjects: ``dicom-patient-id`` takes the patients of its DICOM files, where it has no such column.
    to_train: a column ``site`` must name one for each training image; else what it names is read, of test images too, and a train
    split is left out whole. Raises UserError with the line number for an unknown label, a missing file or one that is no regular
    file, a value that is empty or looks like another, a subject in train and test, and a file named twice, be it by a link (it
    would count double under differential privacy).
    """
    path, skipped = expanded(path), Skipped()
    columns, lines = read_lines(path, REQUIRED, OPTIONAL)
    if not lines:
        raise UserError(f"{shown(path)} names no image; expected one line per file under the header path,label")
    _check_subjects(subjects, columns, path)
    at = [f"{shown(path)}, line {line.number}" for line in lines]
    split = [_split(line.values, where) for line, where in zip(lines, at, strict=True)]
    train, test = ([i for i, one in enumerate(split) if one == side] for side in (TRAIN, TEST))
    known = tuple(_classes(lines, at, train) if classes is None else classes)
    rows: Listing = []
    seen: dict[tuple[int, int], int] = {}
    for line, where in zip(lines, at, strict=True):
        row, identity = _row(line.values, path.parent, known, where)
        if identity in seen:
            raise UserError(f"{where}: {shown(line.values['path'])} is already named on line {seen[identity]}; remove one")
        seen[identity] = line.number
        rows.append(row if subjects is None else (*row[:2], _patient(row[0], where)))
    if "subject" in columns:
        refuse_lookalikes((row[2], where) for row, where in zip(rows, at, strict=True))
    with_subjects = "subject" in columns or subjects is not None
    if with_subjects:
        _refuse_parted([(rows[i], at[i]) for i in train], [(rows[i], at[i]) for i in test], subjects is None)
    sites = _sites(lines, at, train if to_train else range(len(lines)), to_train) if "site" in columns else None
    digests: Digests = {}

    def counted(side: list[int], left: Skipped) -> Listing:
        return once([rows[i] for i in side], left, known, lambda j: at[side[j]], digests)

    apart = not to_train and "split" in columns
    trained, tested = counted(train, Skipped() if apart else skipped), counted(test, skipped)
    skipped.add(TRAINED_ON, *(rows[i][0] for i in train if apart))
    note_leaks(trained, tested, skipped, digests)
    of_site = None if sites is None else {rows[i][0]: site for i, site in sites.items()}
    return List(known, trained, tested if "split" in columns else None, of_site, with_subjects, skipped)


def natural_order(names: Iterable[str]) -> list[str]:
    """Return the names once each, with numbers in them in the order of numbers: 2 before 10."""

    def key(name: str) -> list[tuple[int, str]]:
        return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", name)]

    return sorted(set(names), key=key)


def _split(values: dict[str, str], where: str) -> str:
    said = values.get("split", TRAIN).strip().casefold()
    if said not in (TRAIN, TEST):
        shows = f"'{brief(values['split'])}'" if said else "the split is empty"
        raise UserError(f"{where}: {shows}; want train or test for each image, or drop the column to hold out a part")
    return said


def _classes(lines: Sequence[Line], at: Sequence[str], train: Sequence[int]) -> list[str]:
    """Return the labels of training images, sorted; UserError for one that is missing, two that look alike, or fewer than two."""
    first: dict[str, tuple[str, str]] = {}
    for i in train:
        label = unicodedata.normalize("NFC", lines[i].values["label"]).strip()
        if label.casefold() in NO_LABEL:
            said = f"'{brief(label)}' stands for no label" if label else "the label is empty"
            raise UserError(f"{at[i]}: {said}; name the class of each image, or remove the line")
        known, there = first.setdefault(likeness(label), (label, at[i]))
        if known != label:
            raise UserError(f"{at[i]}: the label '{shown(label)}' looks like '{shown(known)}' of {there}; write one class alike")
    if len(first) < 2:
        raise UserError(f"{at[0].rpartition(', ')[0]}: {len(first)} class(es) in the training images; at least two are needed")
    return sorted(label for label, _ in first.values())


def _sites(lines: Sequence[Line], at: Sequence[str], of: Sequence[int], each: bool) -> dict[int, str]:
    """Return the site of each image in ``of``; where not ``each`` must have one, of those that do."""
    found: dict[int, str] = {}
    for i in of:
        name = subject_name(lines[i].values["site"])
        if name is None and each:
            said = f"'{brief(lines[i].values['site'])}' names no site" if lines[i].values["site"].strip() else "the site is empty"
            raise UserError(f"{at[i]}: {said}; name one for each training image, or drop the column")
        if name is not None:
            found[i] = name
    refuse_lookalikes(((name, at[i]) for i, name in found.items()), "site")
    return found


def _check_subjects(subjects: str | None, columns: Sequence[str], path: Path) -> None:
    if subjects not in (None, PATIENT_ID):
        raise UserError(
            f"data.subjects is '{subjects}' (at a site: --subjects), but {shown(path)} is a list: it names subjects in a column "
            f"subject, or its DICOM files do: '{PATIENT_ID}'"
        )
    if subjects is not None and "subject" in columns:
        raise UserError(
            f"{shown(path)} has a column subject, and data.subjects={subjects} (at a site: --subjects) names subjects too; leave "
            "one of them out"
        )


def _patient(path: Path, where: str) -> str:
    try:
        return patient(path)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _refuse_parted(train: Sequence[tuple[Row, str]], test: Sequence[tuple[Row, str]], named: bool) -> None:
    """named: whether the list itself names subjects; else nothing that stands for a patient is shown."""
    known = {row[2]: where for row, where in reversed(train)}
    for row, where in test:
        if row[2] in known:
            who = f"the subject '{shown(row[2])}'" if named else "the patient of this file"
            raise UserError(
                f"{where}: {who} is tested on here and trained on in {known[row[2]]}; put all of a subject's images into one split"
            )


def read_paths(path: str | Path) -> list[tuple[str, Path]]:
    """Return what a list has in its column ``path``, as it stands there, and the file that it leads to, line by line.

    Other columns are passed over, and a file may be named on several lines: nothing is counted or trained on here. Raises UserError
    with the line number for a file that is missing or no regular file, as :func:`read_list` does.
    """
    path = expanded(path)
    named = [(line.values["path"], f"{shown(path)}, line {line.number}") for line in read_lines(path, REQUIRED[:1], None)[1]]
    if not named:
        raise UserError(f"{shown(path)} names no image; expected one line per file under a header with the column path")
    return [(name, _file(name, path.parent, where)[0]) for name, where in named]


def named_files(path: Path) -> list[Path]:
    """Return every file that a site's list names, there or not; UserError where the list itself cannot be read."""
    return [path.parent / line.values["path"] for line in read_lines(path, REQUIRED, OPTIONAL)[1]]


def _row(values: dict[str, str], folder: Path, classes: Sequence[str], where: str) -> tuple[tuple[Path, int, str], tuple[int, int]]:
    """Return the row and the identity of its file."""
    name, label = values["path"], values["label"]
    known = class_of(label, classes) or class_of(label.strip(), classes)
    if known is None:
        hint = nearest(label.strip(), classes)
        twins = [one for one in classes if likeness(one) == likeness(label)]
        hint = f" It looks like '{shown(twins[0])}'{scripts(label.strip(), twins[0])}." if twins else hint
        hint = COMMENT if name.startswith("#") and not (folder / name).exists() else hint
        raise UserError(f"{where}: '{brief(label)}' is not a class of this task.{hint} Classes: {some(classes)}")
    path, identity = _file(name, folder, where)
    subject = ""
    if "subject" in values:
        found = subject_name(values["subject"])
        if found is None:
            said = f"'{brief(values['subject'])}' names nobody" if values["subject"].strip() else "the subject is empty"
            raise UserError(f"{where}: {said}; name one for each image, or drop the column")
        subject = found
    return (path, list(classes).index(known), subject), identity


def _file(name: str, folder: Path, where: str) -> tuple[Path, tuple[int, int]]:
    try:
        path = (folder / name).resolve()
        status = path.stat() if name else None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, in older versions of Python
        reason = (
            "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be reached ({getattr(error, 'strerror', error)})"
        )
        raise UserError(
            f"{where}: image file '{brief(name)}' {reason} (relative paths start at {shown(folder)}).{_of_path(name, folder)}"
        ) from error
    if status is None:
        raise UserError(f"{where}: image file '' does not exist (relative paths start at {shown(folder)})")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{where}: '{shown(name)}' is no regular file; name an image")
    return path, (status.st_dev, status.st_ino)


def _of_path(name: str, folder: Path) -> str:
    """Return what is likely wrong with a path that leads nowhere, as a sentence."""
    if name != name.strip() and "\\" not in name:
        return " It has blanks at an end."
    return next((said for form, said in WRONG if re.search(form, name)), None) or _in_its_place(folder / name)


def _in_its_place(path: Path) -> str:
    """Return which file there has the name in other letters: another case, accents composed or apart."""
    with suppress(OSError, ValueError):
        wanted = likeness(path.name)
        for item in sorted(path.parent.iterdir()):
            if likeness(item.name) == wanted and item.is_file():
                return f" There is '{shown(item.name)}' ({ascii(item.name)[1:-1]})."
    return ""
