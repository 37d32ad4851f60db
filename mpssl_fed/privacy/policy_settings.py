"""What a site takes for a key: a range, a choice or one value; and how an owner writes it under ``settings``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mpssl_fed import names
from mpssl_fed.config import Config
from mpssl_fed.config.leaves import Leaf, leaves
from mpssl_fed.errors import nearest

FURTHER = 100.0
"""How far beyond the range that a site takes by default an owner may go: a wider one is taken for a typo."""

LEAVES: dict[str, Leaf] = {leaf.key: leaf for leaf in leaves(Config)}


@dataclass(frozen=True)
class Accepted:
    """Any of ``values``; or numbers (and null) within [low, high]; or, where all is None, whatever the schema takes."""

    low: float | None = None
    high: float | None = None
    values: tuple[Any, ...] | None = None

    def takes(self, value: Any) -> bool:
        """Whether ``value``, of the config's JSON form, is accepted; each of a list of numbers has to be within the range."""
        if self.values is not None:
            return any(type(value) is type(mine) and value == mine for mine in self.values)
        if self.low is None or self.high is None:
            return True
        return all(item is None or self.low <= item <= self.high for item in (value if isinstance(value, list) else [value]))

    def __str__(self) -> str:
        if self.values is not None:
            return ", ".join(map(shown, self.values)) or "none"
        if self.low is None or self.high is None:
            return "any"
        return f"{shown(self.low)} to {shown(self.high)}"


def shown(value: Any) -> str:
    """Return a value as a line shows it: cut where long; what a server wrote neither ends the line nor steers a terminal."""
    text = f"{value:g}" if type(value) is float else "null" if value is None else str(value)
    return names.shown(text if len(text) <= 60 else f"{text[:57]}...")


def by_default(leaf: Leaf) -> Accepted:
    """Return what a site takes where its policy says nothing."""
    mark = leaf.mark
    if mark.who == "site":
        return Accepted(values=(leaf.default,))
    return Accepted(values=mark.words) if mark.words else Accepted(mark.low, mark.high)


def read_settings(settings: Mapping[str, Any]) -> dict[str, Accepted]:
    """Return what an owner's ``settings`` say: key -> value, list of values, or {min, max}. ValueError that names the key.

    Keys are dotted or nested, as in a config.
    """
    said: dict[str, Accepted] = {}
    for key, value in dotted(settings):
        if key in said:
            raise ValueError(f"settings.{key} is said twice; remove one")
        said[key] = _read(key, value)
    return said


def may_be_said(key: str, value: Any) -> bool:
    """Whether an owner may put ``value`` under ``settings``."""
    try:
        return bool(_read(key, [value]))
    except ValueError:
        return False


def dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key of ``settings``, dotted or nested there, as a dotted key with its value."""
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and any(leaf.startswith(f"{key}.") for leaf in LEAVES):
            yield from dotted(value, f"{key}.")
        else:
            yield key, value


def _read(key: str, said: Any) -> Accepted:
    leaf = LEAVES.get(key)
    if leaf is None:
        raise ValueError(f"settings: unknown config key '{key}'.{nearest(key, LEAVES)}")
    mark = leaf.mark
    if mark.who == "ignored":
        raise ValueError(f"settings.{key}: a site ignores this key ({mark.why}); remove it")
    if mark.fixed:
        raise ValueError(f"settings.{key}: no policy can change it ({mark.why}); remove it")
    if mark.owner:
        raise ValueError(f"settings.{key}: say it by {mark.owner}")
    if mark.low is not None and isinstance(said, dict):
        return _range(leaf, said)
    values = tuple(_value(leaf, value) for value in (said if isinstance(said, list) else [said]))
    if not values:
        raise ValueError(f"settings.{key}: an empty list permits nothing; name a value, or remove it")
    return Accepted(values=values)


def _range(leaf: Leaf, said: dict[str, Any]) -> Accepted:
    if not said or not set(said) <= {"min", "max"}:
        raise ValueError(f"settings.{leaf.key}={said}: want {{min: ..., max: ...}}, a value, or a list of values")
    low, high = (_number(leaf, said.get(end, default)) for end, default in (("min", leaf.mark.low), ("max", leaf.mark.high)))
    if low > high:
        raise ValueError(f"settings.{leaf.key}: min={low:g} is above max={high:g}")
    return Accepted(low, high)


def _number(leaf: Leaf, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"settings.{leaf.key}: {shown(value)} is no finite number")
    low, high = _furthest(leaf)
    if not low <= value <= high:
        raise ValueError(f"settings.{leaf.key}: {shown(value)} is outside {low:g} to {high:g}, the widest that a policy may permit")
    return float(value)


def _furthest(leaf: Leaf) -> tuple[float, float]:
    """Return the ends of what an owner may say of a number."""
    mark = leaf.mark
    assert mark.low is not None
    assert mark.high is not None
    return (mark.low, mark.high) if mark.who == "site" else (mark.low / FURTHER, mark.high * FURTHER)


def _value(leaf: Leaf, value: Any) -> Any:
    """Return one value in the config's JSON form; ValueError unless the schema takes it and it is within what an owner may say."""
    try:
        checked = TypeAdapter(leaf.field.rebuild_annotation()).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"settings.{leaf.key}={shown(value)}: {error.errors()[0]['msg']}") from error
    checked = list(checked) if isinstance(checked, tuple) else checked
    if leaf.mark.low is not None and checked is not None:
        if isinstance(value, bool):
            raise ValueError(f"settings.{leaf.key}={value}: want a number")
        for item in checked if isinstance(checked, list) else [checked]:
            _number(leaf, item)
    return checked
