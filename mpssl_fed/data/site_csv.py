"""The images of a site as a CSV file: ``path,label[,subject]``, each fault named by its line."""

from __future__ import annotations

import csv
import io
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.data.base import Images
from mpssl_fed.data.classes import class_of
from mpssl_fed.data.decode import check_regular
from mpssl_fed.data.listing import Files, Listing, once
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.data.subjects import refuse_lookalikes, subject_name
from mpssl_fed.data.walk import Skipped
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.names import brief, shown, some

REQUIRED, OPTIONAL = ("path", "label"), ("subject",)
DELIMITERS = (",", ";", "\t", "|")
"""Told apart by the header: the first of them that finds the required columns in it."""


@dataclass(frozen=True)
class Line:
    """One record of a CSV file: the line on which it begins and its value of each column, "" where it has none."""

    number: int
    values: dict[str, str]


def load_site_csv(
    path: str | Path, classes: Sequence[str], size: int, channels: int, prepared: Preparation | None = None
) -> Images:
    """Return the images of :func:`site_csv`, decoded."""
    return site_csv(path, classes).read(size, channels, prepared)


def site_csv(path: str | Path, classes: Sequence[str]) -> Files:
    """Return the images that a CSV file names: columns ``path,label[,subject]``, paths relative to the file's folder.

    Raises UserError with the line number for an unknown label, a missing file or one that is no regular file, a subject that is
    empty or looks like another, and a file named twice, be it by a link (it would count double under differential privacy).
    """
    path, skipped = expanded(path), Skipped()
    columns, lines = read_lines(path, REQUIRED, OPTIONAL)
    if not lines:
        raise UserError(f"{shown(path)} names no image; expected one line per file under the header path,label")
    rows: Listing = []
    seen: dict[tuple[int, int], int] = {}
    for line in lines:
        where = f"{shown(path)}, line {line.number}"
        row, identity = _row(line.values, path.parent, classes, where)
        if identity in seen:
            raise UserError(f"{where}: {shown(line.values['path'])} is already named on line {seen[identity]}; remove one")
        seen[identity] = line.number
        rows.append(row)
    if "subject" in columns:
        refuse_lookalikes((row[2], f"{shown(path)}, line {line.number}") for row, line in zip(rows, lines, strict=True))
    kept = once(rows, skipped, classes, lambda i: f"{shown(path)}, line {lines[i].number}")
    return Files(kept, "subject" in columns, skipped)


def named_files(path: Path) -> list[Path]:
    """Return every file that a site's list names, there or not; UserError where the list itself cannot be read."""
    return [path.parent / line.values["path"] for line in read_lines(path, REQUIRED, OPTIONAL)[1]]


def read_lines(path: Path, required: Sequence[str], optional: Sequence[str]) -> tuple[tuple[str, ...], list[Line]]:
    """Return the columns and the records of a CSV file in UTF-8, whatever its delimiter (``, ; | tab``), line ends and BOM.

    Blank lines are passed over. Raises UserError with the line number for a column that is missing, unknown or there twice, a
    header that comes again, more values than columns, a quote that is not closed, NUL, and bytes that are not UTF-8.
    """
    text = _text(path)
    head = text.split("\n", 1)[0].rstrip("\r")
    delimiter = next((mark for mark in DELIMITERS if set(required) <= set(_columns(head, mark))), ",")
    records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    columns: tuple[str, ...] = ()
    lines: list[Line] = []
    number = 1
    try:
        for values in records:
            where, number = f"{shown(path)}, line {number}", records.line_num + 1
            begins = number - 1 - sum(value.count("\n") for value in values)
            if not columns:
                columns = _header([value.strip().casefold() for value in values], required, optional, path)
            elif values:
                lines.append(Line(begins, _record(values, columns, where)))
    except csv.Error as error:
        raise UserError(f"{shown(path)}, line {number}: {error}; is a quote left open?") from error
    if not columns:
        _header([], required, optional, path)
    return columns, lines


def _text(path: Path) -> str:
    what = "the site's list"
    try:
        check_regular(path, "file")
        content = path.read_bytes()
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read {what} {shown(path)}: {reason}; expected UTF-8 CSV with path,label") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"cannot read {what} {shown(path)}: it is UTF-16; expected UTF-8 CSV with path,label, so save it as that")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{shown(path)}, line {line}: a NUL byte, which no file name has; write the list anew")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"cannot read {what} {shown(path)}: line {line} is not UTF-8; expected UTF-8 CSV with path,label, so save it as that"
        ) from error


def _columns(head: str, delimiter: str) -> list[str]:
    return [value.strip().strip('"').strip().casefold() for value in head.split(delimiter)]


def _header(columns: list[str], required: Sequence[str], optional: Sequence[str], path: Path) -> tuple[str, ...]:
    twice = [column for column in dict.fromkeys(columns) if columns.count(column) > 1]
    if twice:
        raise UserError(
            f"{shown(path)}: line 1 names the column '{shown(twice[0])}' {columns.count(twice[0])} times; which is meant?"
        )
    if not set(required) <= set(columns) <= {*required, *optional}:
        wanted = ",".join(required) + "".join(f"[,{column}]" for column in optional)
        raise UserError(f"{shown(path)}: line 1 must name the columns {wanted}, not {','.join(map(brief, columns))}")
    return tuple(columns)


def _record(values: list[str], columns: Sequence[str], where: str) -> dict[str, str]:
    if len(values) > len(columns):
        raise UserError(f"{where}: more columns than the header names; quote a name that holds a comma")
    if [value.strip().casefold() for value in values] == list(columns):
        raise UserError(f"{where}: the header again; were two lists joined? Remove this line")
    return dict(zip(columns, [*values, *[""] * (len(columns) - len(values))], strict=True))


def _row(values: dict[str, str], folder: Path, classes: Sequence[str], where: str) -> tuple[tuple[Path, int, str], tuple[int, int]]:
    """Return the row and the identity of its file."""
    name, label = values["path"], values["label"]
    known = class_of(label, classes) or class_of(label.strip(), classes)
    if known is None:
        hint = nearest(label.strip(), classes)
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
        hint = " Write folders with '/'." if "\\" in name else " It has blanks at an end." if name != name.strip() else ""
        reason = (
            "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be reached ({getattr(error, 'strerror', error)})"
        )
        raise UserError(f"{where}: image file '{brief(name)}' {reason} (relative paths start at {shown(folder)}).{hint}") from error
    if status is None:
        raise UserError(f"{where}: image file '' does not exist (relative paths start at {shown(folder)})")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{where}: '{shown(name)}' is no regular file; name an image")
    return path, (status.st_dev, status.st_ino)
