"""What a dossier is made of: statements with the file and the key that they were read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mpssl_fed.names import shown
from mpssl_fed.report.table import Table

BLANK = "to be filled in"


@dataclass(frozen=True)
class Source:
    """A file, as a path below the run's or site's folder or as the user named it, and the key in it, parts joined by dots.

    Of metrics.jsonl: ``last.KEY`` is of its last line, ``sum.KEY`` of all; of a ledger: as ``mpssl-fed ledger show --json`` prints
    it; of a docs page: a heading. how: the formula, where the value was computed from what stands there.
    """

    file: str
    key: str = ""
    how: str = ""

    @property
    def words(self) -> str:
        """The source as a reader sees it."""
        return ", ".join(part for part in (": ".join(filter(None, (self.file, self.key))), self.how) if part)


@dataclass(frozen=True)
class Fact:
    """One line: what it is, its value, and where it stands; without a source it says that something is absent, or is a blank."""

    name: str
    value: str
    source: Source | None = None

    @property
    def kind(self) -> str:
        """fact, blank or absent."""
        return "fact" if self.source else "blank" if self.value == BLANK else "absent"


@dataclass(frozen=True)
class Quote:
    """What a docs page says under a heading, word for word: paragraphs, points and tables in their order."""

    source: Source
    blocks: tuple[str | tuple[str, ...] | Table, ...]


@dataclass(frozen=True)
class Section:
    """A heading, what it is about in fixed words, its facts, pictures as (SVG, caption) and what the docs say of it."""

    title: str
    note: str = ""
    facts: tuple[Fact, ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()
    quotes: tuple[Quote, ...] = ()


def absent(name: str, why: str) -> Fact:
    """Return the line that says that there is no file of something, and why or what makes it."""
    return Fact(name, f"absent: {why}")


def blank(name: str) -> Fact:
    """Return a line that the reader fills in."""
    return Fact(name, BLANK)


def word(value: Any) -> str:
    """Return a value of a file as text: numbers in full, so that they are found again there."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(word(one) for one in value) or "none"
    return shown(value) if isinstance(value, str) else str(value)


def leaves(content: Mapping[str, Any], key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key in dots, value) of what is in a table, tables inside it entered."""
    for name, value in content.items():
        where = f"{key}.{name}" if key else str(name)
        if isinstance(value, Mapping):
            yield from leaves(value, where)
        else:
            yield where, value


def of_table(file: str, content: Mapping[str, Any], keys: Mapping[str, str]) -> list[Fact]:
    """Return a fact for each of ``keys`` (key in dots -> what it is) that ``content`` has, tables spread out."""
    facts = []
    for key, name in keys.items():
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            facts += [
                Fact(f"{name}: {shown(where[len(key) + 1 :])}", word(one), Source(file, where)) for where, one in leaves(value, key)
            ]
        elif value is not None:
            facts.append(Fact(name, word(value), Source(file, key)))
    return facts
