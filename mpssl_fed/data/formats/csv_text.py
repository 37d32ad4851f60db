"""The bytes of a list as text, or what kind of file they are instead; UTF-8 alone is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mpssl_fed.data.decode import check_regular
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown

BOMS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
WITHOUT_BOM = (
    (re.compile(rb"(?:[\x01-\x7f]\0\0\0){4}|(?:\0\0\0[\x01-\x7f]){4}"), "UTF-32"),
    (re.compile(rb"(?:[\x01-\x7f]\0){4}|(?:\0[\x01-\x7f]){4}"), "UTF-16"),
)
"""How a text begins whose first four characters are ASCII."""

IMAGE = "an image"
OTHERS = (
    (b"PK\x03\x04", "a workbook or an archive (ZIP)"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old Excel"),
    (b"\x1f\x8b", "compressed (gzip)"),
    (b"PAR1", "a Parquet file"),
    (b"\x89PNG", IMAGE),
    (b"\xff\xd8\xff", IMAGE),
)


def csv_text(path: Path, columns: Sequence[str]) -> str:
    """Return the text of a list, without its BOM. columns: those that it must have, to be named where it is no text.

    Raises UserError for a file that cannot be read, that is no text or one in another encoding (named, where it shows), and with
    the number of the line for NUL and for bytes that are not UTF-8.
    """
    wanted = f"expected UTF-8 CSV with {','.join(columns)}"
    try:
        check_regular(path, "file")
        content = path.read_bytes()
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the list {shown(path)}: {reason}; {wanted}") from error
    if kind := _kind(content):
        raise UserError(f"cannot read the list {shown(path)}: it is {kind}; {wanted}, so save it as that")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{shown(path)}, line {line}: a NUL byte, which no file name has; write the list anew")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"cannot read the list {shown(path)}: line {line} is not UTF-8; {wanted}, so save it as that") from error


def may_be_list(path: Path) -> bool:
    """Return whether a file begins as a text, or as one of the other forms that a list is saved in by mistake."""
    with open(path, "rb") as file:
        head = file.read(4096)
    kind = _kind(head)
    return kind != IMAGE if kind else b"\0" not in head


def _kind(content: bytes) -> str:
    """Return what a file is instead of UTF-8, where its first bytes show it, else an empty text."""
    kind = next((name for mark, name in BOMS if content.startswith(mark)), "")
    kind = kind or next((name for form, name in WITHOUT_BOM if form.match(content)), "")
    return kind or next((name for mark, name in OTHERS if content.startswith(mark)), "")
