"""``key.path=value`` on a command line or in Python: how a value is read, where it goes, and what a new name drops."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpssl_fed.config.data import PARTITION_OPTIONS
from mpssl_fed.config.federation import STRATEGY_OPTIONS
from mpssl_fed.config.keys import UNKNOWN, annotation_of, takes_text
from mpssl_fed.config.learning import BUNDLES
from mpssl_fed.config.plain import parse, plain
from mpssl_fed.config.section import Section
from mpssl_fed.errors import UserError


@dataclass(frozen=True)
class Override:
    """One key set from outside the file. value: as the schema wants it; said: the user's own words, for errors."""

    key: str
    value: Any
    said: str

    @property
    def blamed(self) -> str:
        """The start of an error about it."""
        return self.said if self.said.startswith("--") else f"override '{self.said[:200]}'"


NAMED_BY_FILE = ("generator", "model")
"""Sections whose files stay where the config gives files and no name: they are meant for the name that is to come."""

Given = str | Override
"""``key.path=value`` as typed, or a key and its value as they are."""


def read(item: Given, model: type[Section], lists: bool = False) -> Override:
    """Return the override that ``item`` is; UserError for one that is none.

    A key that takes text (a name, a path) takes what stands behind the sign as it is, blanks, ``#`` and ``:`` included; ``null``
    alone, or nothing, is null where that may stand, and text in YAML's quotes is what the quotes hold. Every other key takes
    YAML, and is refused where nothing stands: ``privacy.epsilon=$EPSILON`` must not turn privacy off.
    ``lists``: a text key also takes ``[a,b]`` as a list, which a study compares.
    """
    if isinstance(item, Override):
        return item
    key, equals, text = item.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"override '{item[:200]}': want key.path=value, for example federation.rounds=3")
    annotation = annotation_of(model, key)
    words, nullable = (False, False) if annotation is UNKNOWN else takes_text(annotation)
    if not words or (lists and text.startswith("[")):
        if not text.strip():
            raise UserError(
                f"override '{item[:200]}': the value is empty; is a variable of your shell not set? null stands for none"
            )
        return Override(key, parse(text, f"override '{item[:200]}': the value"), item)
    return Override(key, None if nullable and text in ("", "null") else _unquoted(text), item)


def _unquoted(text: str) -> str:
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return text
    try:
        value = parse(text, "")
    except UserError:
        return text
    return value if isinstance(value, str) else text


def apply(fields: Mapping[str, Any], overrides: Sequence[Override], where: str) -> dict[str, Any]:
    """Return a plain copy of ``fields`` with each override set; a missing level is made, a scalar in the way is an error."""
    before: dict[str, Any] = plain(fields, where)
    after: dict[str, Any] = plain(fields, where)
    for one in overrides:
        *parents, leaf = one.key.split(".")
        level = after
        for parent in parents:
            child = level.get(parent)
            if child is None:
                child = level[parent] = {}
            if not isinstance(child, dict):
                raise UserError(f"{one.blamed}: '{parent}' is a value, not a section")
            level = child
        level[leaf] = plain(one.value, one.blamed, one.key)
    drop_orphans(before, after, {one.key for one in overrides})
    return after


def drop_orphans(before: Mapping[str, Any], after: dict[str, Any], chosen: Collection[str]) -> None:
    """Take out of ``after``, in place, what belonged to a name that ``chosen`` (dotted keys) has replaced.

    The options of the former partitioner or strategy, source and loss of the former method, the files of the former generator
    or model, what a former control or recipe had set elsewhere, and what the new one sets otherwise; ``privacy.scope: off`` where
    a budget is chosen that was not there. Whatever is itself chosen stays.
    """
    for path, options in (("data.partition", PARTITION_OPTIONS), ("federation.strategy", STRATEGY_OPTIONS)):
        name = _renamed(before, after, chosen, path)
        if name is not None:
            others = {key for keys in options.values() for key in keys} - set(options.get(name, {}))
            _drop(after, path, [*others, "options"], chosen)
    for path, keys in (
        ("method", ("source", "loss", "options")),
        ("generator", ("path", "foundation")),
        ("model", ("pretrained",)),
    ):
        if _renamed(before, after, chosen, path) is not None:
            _drop(after, path, keys, chosen)
    budgets = [_at(fields, "privacy.epsilon") for fields in (before, after)]
    new_budget = "privacy.epsilon" in chosen and budgets[0] is None and budgets[1] is not None
    if new_budget and _at(after, "privacy.scope") == "off":  # over a run's own config.yaml, which spells ``off`` out
        _drop(after, "privacy", ["scope"], chosen)
    if "method.name" in chosen:
        former, method = _at(before, "method.name"), _at(after, "method.name")
        if former != method:
            _drop_bundle(after, former, chosen, only_its_own=True)
        _drop_bundle(after, method, chosen, only_its_own=False)


def _drop_bundle(after: dict[str, Any], name: Any, chosen: Collection[str], only_its_own: bool) -> None:
    """Drop the keys that the control or recipe ``name`` sets, or of them alone those that have its values."""
    for path, key, value in _parts(BUNDLES.get(name if isinstance(name, str) else "", {})):
        found = _at(after, f"{path}.{key}")
        same = found.get("name") == value["name"] if isinstance(value, dict) and isinstance(found, dict) else found == value
        if same or not only_its_own:
            _drop(after, path, [key], chosen)


def _parts(sets: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (section, key, value) of a bundle; a section with a name, on which its other keys hang, as a whole."""
    for key, value in sets.items():
        if isinstance(value, Mapping) and (not path or "name" not in value):
            yield from _parts(value, f"{path}.{key}" if path else key)
        else:
            yield path, key, value


def _renamed(before: Mapping[str, Any], after: Mapping[str, Any], chosen: Collection[str], path: str) -> str | None:
    """Return the new name of a section where the override of the name alone has changed it."""
    name, former = _at(after, f"{path}.name"), _at(before, f"{path}.name")
    if f"{path}.name" not in chosen or not isinstance(name, str) or name == former:
        return None
    return name if former is not None or path not in NAMED_BY_FILE else None


def _at(fields: Mapping[str, Any], key: str) -> Any:
    value: Any = fields
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _drop(fields: dict[str, Any], path: str, keys: Collection[str], chosen: Collection[str]) -> None:
    section = _at(fields, path)
    for key in keys if isinstance(section, dict) else ():
        full = f"{path}.{key}"
        if not any(f"{one}.".startswith(f"{full}.") or f"{full}.".startswith(f"{one}.") for one in chosen):
            section.pop(key, None)
