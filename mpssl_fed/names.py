"""Names that someone else chose (files, classes, subjects), shown so that no two different ones look the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from os import PathLike, fspath

_LETTERS = {"\n": "n", "\r": "r", "\t": "t", "\\": "\\"}
_AMBIGUOUS = re.compile(r"\\[\\nrtxuU]")
"""What an escape begins with: a name that holds it as plain text is escaped too, so that each text stands for one name."""

TIMM_NAME = re.compile(r"timm/[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")
"""``model.name`` of a network of timm, with or without the tag of its weights: nothing that timm would look up elsewhere."""


def shown(name: str | PathLike[str]) -> str:
    r"""Return ``name`` for a terminal, a plot or a page: whole where every character shows, else with backslash escapes.

    Escaped are control and formatting characters (such as those that turn the direction of writing), blanks that are not plain
    single ones inside the name, and bytes that are not UTF-8 (``\xff``). Different names give different texts.
    """
    return escaped(name, _hides)


def as_text(name: str | PathLike[str]) -> str:
    """Return ``name`` as text that any encoding of Unicode can hold: bytes that are not UTF-8 are escaped, all else stays.

    For CSV and JSON, whose own rules carry the rest. Different names give different texts.
    """
    return escaped(name, lambda text, i: 0xD800 <= ord(text[i]) <= 0xDFFF)


def escaped(name: str | PathLike[str], hides: Callable[[str, int], bool]) -> str:
    """Return ``name`` with each character i for which ``hides(name, i)`` holds as an escape, and then its backslashes too."""
    text = fspath(name)
    hidden = [hides(text, i) for i in range(len(text))]
    if not any(hidden) and not _AMBIGUOUS.search(text):
        return text
    return "".join(escape(c) if hide or c == "\\" else c for c, hide in zip(text, hidden, strict=True))


def printable(text: str) -> str:
    """Return a text of several lines without what steers a terminal or breaks a page; line ends, tabs and backslashes stay."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else escape(c) for c in text)


def width(text: str) -> int:
    """Return the columns that ``text`` takes in a terminal: two for each wide character, none for a mark that joins another."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def distinct(names: Sequence[str], most: int, form: Callable[[str], str] = shown) -> list[str]:
    """Return the ``form`` of different ``names``, each at most ``most`` (8 or more) columns wide, no two alike.

    A longer one loses its middle; where two would then be alike, the place in ``names`` stands at its end: ``long-na…#3``.
    """
    short = [_cut(form(name), most) for name in names]
    seen: set[str] = set()
    for i, text in enumerate(short):
        mark, end = text, f"…#{i + 1}"
        while unicodedata.normalize("NFC", mark) in seen:
            mark = _head(form(names[i]), most - width(end)) + end
            end += "'"
        seen.add(unicodedata.normalize("NFC", mark))
        short[i] = mark
    return short


def brief(name: str, most: int = 200) -> str:
    """Return :func:`shown`, without the middle of what would fill a screen."""
    return _cut(shown(name), most)


def some(names: Sequence[str | PathLike[str]], most: int = 12) -> str:
    """Return the first ``most`` names, and how many more there are."""
    return ", ".join(map(shown, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _hides(text: str, i: int) -> bool:
    kind = unicodedata.category(text[i])
    if text[i] == " ":
        return i in (0, len(text) - 1) or text[i - 1] == " "  # at an end, or the second of a run, which a page would swallow
    return kind in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs")


def escape(c: str) -> str:
    r"""Return a character as a backslash escape: ``\n``, ``\x1b``, ``\u4e2d``; a byte that is not UTF-8 as ``\xff``."""
    code = ord(c)
    if c in _LETTERS:
        return "\\" + _LETTERS[c]
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _cut(text: str, most: int) -> str:
    if width(text) <= most:
        return text
    tail = _head(text[::-1], (most - 1) // 3)[::-1]
    return _head(text, most - 1 - width(tail)) + "…" + tail


def _head(text: str, most: int) -> str:
    used, end = 0, 0
    for end, c in enumerate(text):
        used += width(c)
        if used > most:
            return text[:end]
    return text[: end + 1]
