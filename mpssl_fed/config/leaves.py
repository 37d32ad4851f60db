"""The schema as a flat list of keys that hold a value, each with its field and its mark."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from mpssl_fed.config.marks import Mark
from mpssl_fed.config.section import Section


@dataclass(frozen=True)
class Leaf:
    """One key that holds a value: its dotted name, as in YAML, its field and its mark."""

    key: str
    field: FieldInfo
    mark: Mark

    @property
    def default(self) -> Any:
        """The installed default, in the JSON form of :meth:`Config.dump`; None for a key that has none."""
        value = None if self.field.is_required() else self.field.get_default(call_default_factory=True)
        return list(value) if isinstance(value, tuple) else value


def leaves(model: type[Section], prefix: str = "") -> Iterator[Leaf]:
    """Yield every leaf below ``model``, in the schema's order.

    TypeError for a key without exactly one mark: a deployed site then answers nothing, since nobody said who decides it.
    """
    marks = _marks(model)
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        below = section_of(field.annotation)
        if below is not None:
            yield from leaves(below, f"{key}.")
        elif name not in marks:
            raise TypeError(f"config key '{key}' has no mark; {model.__name__}.marks must say who decides it")
        else:
            yield Leaf(key, field, marks[name])


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section behind an annotation (``Section`` or ``Section | None``); None for a value."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)


def flat(fields: dict[str, Any], model: type[Section], prefix: str = "") -> dict[str, Any]:
    """Return nested ``fields`` (:meth:`Config.dump`) as {dotted key: value}; the leaves of a section that is null are null."""
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        below = section_of(field.annotation)
        if below is None:
            values[prefix + key] = fields.get(key)
        else:
            values |= flat(fields.get(key) or {}, below, f"{prefix}{key}.")
    return values


def _marks(model: type[Section]) -> dict[str, Mark]:
    """Return field name -> mark; TypeError for a mark of no field, of a section, or a second one."""
    found: dict[str, Mark] = {}
    values = {name for name, field in model.model_fields.items() if section_of(field.annotation) is None}
    for names, mark in model.marks.items():
        for name in names.split():
            if name in found or name not in values:
                raise TypeError(f"{model.__name__}.marks: '{name}' is {'marked twice' if name in found else 'no key of its own'}")
            found[name] = mark
    return found
