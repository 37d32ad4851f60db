"""The bytes of a list as text, or what kind of file they are instead; UTF-8 alone is read."""

from __future__ import annotations

import re
from pathlib import Path

from mpssl_fed.data.decode import check_regular
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown

WANTED = "expected UTF-8 CSV with path,label"
BOMS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
WITHOUT_BOM = (
    (re.compile(rb"(?:[\x01-\x7f]\0\0\0){4}|(?:\0\0\0[\x01-\x7f]){4}"), "UTF-32"),
    (re.compile(rb"(?:[\x01-\x7f]\0){4}|(?:\0[\x01-\x7f]){4}"), "UTF-16"),
)
"""How a text begins whose first four characters are ASCII."""

OTHERS = (
    (b"PK\x03\x04", "a workbook or an archive (ZIP)"),
    (b"\xd0\xcf\x11\xe0", "a workbook of an old Excel"),
    (b"\x1f\x8b", "compressed (gzip)"),
    (b"PAR1", "a Parquet file"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
)


def csv_text(path: Path) -> str:
    """Return the text of a list, without its BOM.

    Raises UserError for a file that cannot be read, that is no text or one in another encoding (named, where it shows), and with
    the number of the line for NUL and for bytes that are not UTF-8.
    """
    try:
        check_regular(path, "file")
        content = path.read_bytes()
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"cannot read the list {shown(path)}: {reason}; {WANTED}") from error
    kind = next((name for mark, name in BOMS if content.startswith(mark)), "")
    kind = kind or next((name for form, name in WITHOUT_BOM if form.match(content)), "")
    kind = kind or next((name for mark, name in OTHERS if content.startswith(mark)), "")
    if kind:
        raise UserError(f"cannot read the list {shown(path)}: it is {kind}; {WANTED}, so save it as that")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{shown(path)}, line {line}: a NUL byte, which no file name has; write the list anew")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"cannot read the list {shown(path)}: line {line} is not UTF-8; {WANTED}, so save it as that") from error
