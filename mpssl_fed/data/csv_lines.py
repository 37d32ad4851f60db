"""A CSV file as lines: whatever program wrote it, with the number on which each record begins."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.data.formats.csv_text import csv_text
from mpssl_fed.errors import UserError
from mpssl_fed.names import brief, shown

DELIMITERS = (",", ";", "\t", "|")
"""Told apart by the header: the first of them that finds the required columns in it."""

SEPARATOR = re.compile(r'"?sep=(.)"?[;,\t| ]*', re.IGNORECASE)
"""The line before the header by which spreadsheets are told the delimiter."""


@dataclass(frozen=True)
class Line:
    """One record of a CSV file: the line on which it begins and its value of each column, "" where it has none."""

    number: int
    values: dict[str, str]


def read_lines(path: Path, required: Sequence[str], optional: Sequence[str] | None) -> tuple[tuple[str, ...], list[Line]]:
    """Return the columns and the records of a CSV file in UTF-8, whatever its delimiter (``, ; | tab``), line ends and BOM.

    Blank lines are passed over, as is a line ``sep=;`` before the header, and empty values beyond the last column. ``optional``
    None: whatever other columns there are, named or not, are passed over. Raises UserError with the line number for a column that
    is missing, unknown or there twice, a header that comes again, fewer values than the required columns, more than there are
    columns, a quote that is not closed or not at the ends of its value, NUL, and bytes that are not UTF-8.
    """
    text = csv_text(path, required)
    head, delimiter = _head(text, required)
    records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    columns: tuple[str, ...] = ()
    lines: list[Line] = []
    number = 1
    try:
        for values in records:
            where, number = f"{shown(path)}, line {number}", records.line_num + 1
            begins = number - 1 - sum(value.count("\n") for value in values)
            if begins < head or not values or (len(values) == 1 and not values[0].strip()):
                continue
            if not columns:
                columns = _header([value.strip().casefold() for value in values], required, optional, path, begins)
            else:
                lines.append(Line(begins, _record(values, columns, required, delimiter, where)))
    except csv.Error as error:
        raise UserError(f"{shown(path)}, line {number}: {error}; {_of_quotes(str(error))}") from error
    if not columns:
        _header([], required, optional, path, 1)
    return columns, lines


def _head(text: str, required: Sequence[str]) -> tuple[int, str]:
    """Return the number of the header's line and the delimiter that it, or a line ``sep=;`` before it, names."""
    said = None
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        head = line.rstrip("\n")
        if said is None and (said := SEPARATOR.fullmatch(head)):
            continue
        if head.strip():
            found = next((mark for mark in DELIMITERS if set(required) <= set(_columns(head, mark))), ",")
            return number, said[1] if said else found
    return 1, ","


def _columns(head: str, delimiter: str) -> list[str]:
    return [value.strip().strip('"').strip().casefold() for value in head.split(delimiter)]


def _header(
    columns: list[str], required: Sequence[str], optional: Sequence[str] | None, path: Path, number: int
) -> tuple[str, ...]:
    read = columns if optional is not None else [column for column in columns if column in required]
    twice = [column for column in dict.fromkeys(read) if column and read.count(column) > 1]
    if twice:
        raise UserError(
            f"{shown(path)}: line {number} names the column '{shown(twice[0])}' {read.count(twice[0])} times; which is meant?"
        )
    if not set(required) <= set(read) <= {*required, *(optional or ())} or len(set(read)) < len(read):
        wanted = "the columns " if len(required) > 1 or optional else "the column "
        wanted += ",".join(required) + "".join(f"[,{column}]" for column in optional or ())
        found = ",".join(map(brief, columns[:20]))
        raise UserError(f"{shown(path)}: line {number} must name {wanted}, not {found}{_of_header(columns, required)}")
    return tuple(columns)


def _of_header(columns: list[str], required: Sequence[str]) -> str:
    """Return what is likely wrong with a header, as the end of a sentence."""
    named = set(required) <= {column.lstrip("#\ufeff ") for column in columns}
    if columns and columns[0].startswith("#"):
        return ". Take the # away" if named else ". It is a comment, of which a list has none: remove it"
    if columns and columns[0].startswith("\ufeff"):
        return ". It begins with a second BOM; write the list anew"
    if named and columns[0] in ("", "unnamed: 0", "index"):
        return ". The first column is a data frame's index: write it without (index=False)"
    if named and "" in columns:
        return ". A column has no name; remove it"
    if len(columns) == 1 and any(set(required) <= set(_columns(columns[0], mark)) for mark in DELIMITERS):
        return " in one pair of quotes: quote each name or none"
    return ", separated by one of , ; | or tabs" if len(columns) == 1 else ""


def _record(values: list[str], columns: Sequence[str], required: Sequence[str], delimiter: str, where: str) -> dict[str, str]:
    beyond = values[len(columns) :]
    if any(value.strip() for value in beyond):
        raise UserError(f"{where}: more columns than the header names; quote a name that holds a comma")
    plain = [value.strip().casefold() for value in values[: len(columns)]]
    if sorted(plain) == sorted(columns):
        raise UserError(f"{where}: the header again; were two lists joined? Remove this line")
    if not any(plain):
        raise UserError(f"{where}: nothing between the delimiters; remove this line")
    short = [columns.index(column) for column in required if columns.index(column) >= len(values)]
    if short:
        kind = (
            "a comment, of which a list has none?" if plain[0].startswith("#") else "another delimiter, a note, quotes around all?"
        )
        raise UserError(
            f"{where}: no {columns[short[0]]} in '{brief(delimiter.join(values))}', where the header names {len(columns)} columns "
            f"separated by '{shown(delimiter)}'; is it {kind}"
        )
    return dict(zip(columns, [*values, *[""] * (len(columns) - len(values))], strict=False))


def _of_quotes(error: str) -> str:
    """Return the cure of what csv says of quotes."""
    if "expected after" in error:
        return (
            'nothing may stand between a closing quote and the delimiter, no blank either ("a.png",cat), and a quote in a name is '
            "doubled"
        )
    return "is a quote left open?"
