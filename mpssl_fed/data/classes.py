"""Which class a folder or a label names; classes that look the same are refused, since nobody could tell them apart later."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from mpssl_fed.errors import UserError
from mpssl_fed.names import as_text, shown


class UnfitClassError(UserError):
    """A class has too few images. Its text has the class' number, and with :meth:`named` its name."""

    def __init__(self, label: int, text: str) -> None:
        super().__init__(text.format(cls=f"class {label}"))
        self.label, self.text = int(label), text

    def named(self, classes: Sequence[str]) -> str:
        """Return the text with the name of the class."""
        return self.text.format(cls=f"class '{shown(classes[self.label])}'")


def class_name(folder: Path) -> str:
    """Return the class that a folder stands for: its name, with bytes that are not UTF-8 escaped."""
    return as_text(folder.name) if any(0xD800 <= ord(c) <= 0xDFFF for c in folder.name) else folder.name


def class_of(name: str, classes: Sequence[str]) -> str | None:
    """Return the one of ``classes`` that ``name`` is, be its accents composed or not (some systems' archives change that)."""
    if name in classes:
        return name
    same = [known for known in classes if unicodedata.normalize("NFC", known) == unicodedata.normalize("NFC", name)]
    return same[0] if len(same) == 1 else None


def refuse_alike(folders: Iterable[Path]) -> None:
    """Raise UserError for two class folders whose names differ by nothing that shows: blanks, how accents are composed."""
    first: dict[str, Path] = {}
    for folder in folders:
        text = unicodedata.normalize("NFC", class_name(folder))
        look = " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())
        known = first.setdefault(look, folder)
        if known != folder:
            pair = " and ".join(f"{shown(one)} ({one.name!a})" for one in (known, folder))
            raise UserError(f"the class folders {pair} look alike; if they are one class, put its images into one, else rename one")
