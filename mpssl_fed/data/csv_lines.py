"""A CSV file as lines: whatever program wrote it, with the number on which each record begins."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.data.decode import check_regular
from mpssl_fed.errors import UserError
from mpssl_fed.names import brief, shown

DELIMITERS = (",", ";", "\t", "|")
"""Told apart by the header: the first of them that finds the required columns in it."""


@dataclass(frozen=True)
class Line:
    """One record of a CSV file: the line on which it begins and its value of each column, "" where it has none."""

    number: int
    values: dict[str, str]


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
    try:
        check_regular(path, "file")
        content = path.read_bytes()
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the list {shown(path)}: {reason}; expected UTF-8 CSV with path,label") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"cannot read the list {shown(path)}: it is UTF-16; expected UTF-8 CSV with path,label, so save it as that")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{shown(path)}, line {line}: a NUL byte, which no file name has; write the list anew")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"cannot read the list {shown(path)}: line {line} is not UTF-8; expected UTF-8 CSV with path,label, so save it as that"
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
