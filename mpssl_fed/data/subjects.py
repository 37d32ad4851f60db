"""Who a subject is: one spelling for each, so that nobody stands on two sides or counts as two units of privacy."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation, Overflow

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.errors import UserError
from mpssl_fed.names import shown, some

MISSING = frozenset({"", "nan", "na", "n/a", "#n/a", "<na>", "nat", "none", "null", "nil", "-", "?"})
"""What spreadsheets and data frames write where there is no value."""

MARKS = {"\u2212": "-", **dict.fromkeys('"`\u00b4\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u2032\u2033', "'")}
"""Signs that word processors and spreadsheets put for another: the minus, and quotes."""

TWINS = str.maketrans(
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0455\u0456\u0458"
    "\u03b1\u03b2\u03b5\u03b6\u03b7\u03b9\u03ba\u03bc\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7\u0131",
    "abekmhopctyxsijabezhikmnoptyxi",
)
"""Small letters of Cyrillic and Greek, and the i without a dot -> the Latin letter that looks like them, or like their capital."""

NUMBER = re.compile(r"[+-]?\d{1,40}(?:[.,]\d{0,40})?(?:e[+-]?\d{1,3})?")


def subject_name(text: str) -> str | None:
    """Return the subject that ``text`` names, in Unicode's composed form and without blanks around it; None where it names none."""
    name = unicodedata.normalize("NFC", text).strip()
    return None if name.casefold() in MISSING else name


def numbered(subjects: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each image's subject [n], in order of their first images."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(subject, len(first)) for subject in subjects], dtype=np.int64)


def likeness(subject: str) -> str:
    """Return what subjects share that differ only by blanks, case, width or script of letters and digits that look alike, the
    kind of dash or quote, or the way of writing a number."""
    text = "".join(c for c in unicodedata.normalize("NFKC", subject).casefold() if unicodedata.category(c) != "Cf")
    text = "".join(str(unicodedata.decimal(c, c)) for c in text.translate(TWINS))
    text = "".join("-" if unicodedata.category(c) == "Pd" else MARKS.get(c, c) for c in "".join(text.split())).strip("'=")
    if NUMBER.fullmatch(text):
        try:
            return format(Decimal(text.replace(",", ".")).normalize(), "f")
        except (InvalidOperation, Overflow):
            return text
    text = re.sub(r"(?<=\d)[.,]0+(?!\d)", "", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def scripts(one: str, other: str) -> str:
    """Return which letter of ``one`` is of another script than its twin in ``other``, in brackets; "" where none is."""
    for a, b in zip(unicodedata.normalize("NFC", one), unicodedata.normalize("NFC", other), strict=False):
        here, there = (unicodedata.name(c, "?").split()[0].capitalize() for c in (a, b))
        if a.isalpha() and b.isalpha() and here != there:
            return f" (whose {ascii(b)[1:-1]} is {there}; here {ascii(a)[1:-1]} is {here})"
    return ""


def refuse_lookalikes(subjects: Iterable[tuple[str, str]], what: str = "subject") -> None:
    """Raise UserError for two spellings of what may be one subject. ``subjects``: (subject, where it is named)."""
    first: dict[str, tuple[str, str]] = {}
    for subject, where in subjects:
        known, there = first.setdefault(likeness(subject), (subject, where))
        if known != subject:
            raise UserError(
                f"{where}: the {what} '{shown(subject)}' looks like '{shown(known)}' of {there}{scripts(subject, known)}; if they "
                "are one, write it alike everywhere, else give them names that differ by more than blanks, case, dashes or the "
                "form of a number"
            )


def refuse_on_both_sides(train: Iterable[str], test: Iterable[str], where: str) -> None:
    """Raise UserError for subjects in train and in test, however they are spelt."""
    known = {likeness(subject) for subject in train}
    both = sorted({subject for subject in test if likeness(subject) in known})
    if both:
        raise UserError(
            f"{where}: {len(both)} subject(s) are both in train and in test: {some(both, 5)}; accuracy on people that were "
            "trained on says nothing, so move all of a subject's images to one side"
        )
