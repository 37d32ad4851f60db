"""Walking the schema: which dotted keys there are, what may stand at one, and what stands beside it."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo

from mpssl_fed.config.section import Section

UNKNOWN = object()
"""What :func:`annotation_of` returns for a key that is none."""


def fields_of(model: type[Section]) -> dict[str, FieldInfo]:
    """Return the fields of a section under the names that YAML uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section that an annotation names, alone or beside null; None for a value."""
    return next((kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, Section)), None)


def is_free_mapping(annotation: Any) -> bool:
    """Return whether anything may stand below a key, as below the options of a plug-in."""
    return typing.get_origin(annotation) is dict


def keys_below(model: type[Section], prefix: str = "") -> list[str]:
    """Return every dotted key of a section, leaves and sections, in the schema's order."""
    keys = []
    for name, field in fields_of(model).items():
        keys.append(prefix + name)
        below = section_of(field.annotation)
        if below is not None:
            keys += keys_below(below, f"{prefix}{name}.")
    return keys


def annotation_of(model: type[Section], key: str) -> Any:
    """Return the annotation of a dotted key, ``Any`` below a free mapping, UNKNOWN where there is no such key."""
    annotation: Any = model
    for part in key.split("."):
        if is_free_mapping(annotation):
            return Any
        below = section_of(annotation)
        if below is None or part not in fields_of(below):
            return UNKNOWN
        annotation = fields_of(below)[part].annotation
    return annotation


def keys_beside(model: type[Section], path: Sequence[str]) -> list[str]:
    """Return the keys that are valid where the last part of ``path`` stands; none below a value."""
    annotation = annotation_of(model, ".".join(path[:-1])) if len(path) > 1 else model
    below = section_of(annotation)
    return [] if below is None else list(fields_of(below))


def takes_text(annotation: Any) -> tuple[bool, bool]:
    """Return whether an annotation is of text alone (a name, a path, one of some words), and whether null may stand there."""
    kinds = _kinds(annotation)
    others = [kind for kind in kinds if kind is not type(None)]
    words = [kind for kind in others if kind is str or (typing.get_origin(kind) is typing.Literal and _all_text(kind))]
    return bool(others) and len(words) == len(others), len(others) < len(kinds)


def holds_list(annotation: Any) -> bool:
    """Return whether a value is itself a list, as that of optim.betas is; below a free mapping anything may stand."""
    return annotation is Any or any(typing.get_origin(kind) in (list, tuple) for kind in _kinds(annotation))


def _kinds(annotation: Any) -> tuple[Any, ...]:
    union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    return typing.get_args(annotation) if union else (annotation,)


def _all_text(literal: Any) -> bool:
    return all(isinstance(value, str) for value in typing.get_args(literal))
