"""Config keys in a study file: which exist, how a cell sets one, and the short name a table shows."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.config.section import Section
from mpssl_fed.errors import UserError, nearest

NOT_COMPARED = {
    "seed": "give the seeds under 'seeds'",
    "output": "a study names the folder of each cell itself",
    "federation.backend": "the engine does not change a result, so both cells would be the same",
}
"""Keys that no grid may hold, with what to do instead."""


def check_key(key: str, where: str) -> None:
    """Raise UserError, with the nearest valid key, unless ``key`` (dotted) names a part of the config that a study may vary."""
    for forbidden, cure in NOT_COMPARED.items():
        if key == forbidden or key.startswith(forbidden + "."):
            raise UserError(f"{where}: key '{key}' cannot vary in a study: {cure}")
    model: type[Section] | None = Config
    *parents, leaf = key.split(".")
    for part in [*parents, leaf]:
        if model is None:
            raise UserError(f"{where}: unknown config key '{key}': '{part}' lies below a value.{nearest(key, config_keys())}")
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        if part not in fields:
            raise UserError(f"{where}: unknown config key '{key}'.{nearest(key, config_keys())} Valid there: {', '.join(fields)}")
        if _is_free_mapping(fields[part]):
            return
        model = _section(fields[part])


def holds_list(key: str) -> bool:
    """Return whether the value of the valid dotted ``key`` is itself a list, as that of optim.betas is."""
    model: type[Section] = Config
    *parents, leaf = key.split(".")
    for part in parents:
        below = _section({field.alias or name: field.annotation for name, field in model.model_fields.items()}[part])
        if below is None:
            return True  # below a free mapping anything may stand
        model = below
    return typing.get_origin({f.alias or n: f.annotation for n, f in model.model_fields.items()}[leaf]) in (list, tuple)


def config_keys(model: type[Section] = Config, prefix: str = "") -> list[str]:
    """Return every dotted key of the config, leaves and sections, in the schema's order."""
    keys = []
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        keys.append(key)
        below = _section(field.annotation)
        if below is not None:
            keys += config_keys(below, key + ".")
    return keys


def set_key(fields: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key`` in nested ``fields`` in place, making the levels that are missing."""
    *parents, leaf = key.split(".")
    level = fields
    for parent in parents:
        if not isinstance(level.get(parent), dict):
            level[parent] = {}
        level = level[parent]
    level[leaf] = json.loads(json.dumps(value))


def get_key(fields: Mapping[str, Any], key: str) -> Any:
    """Return the value of the dotted ``key`` in nested ``fields``, without the empty options of a section."""
    value: Any = fields
    for part in key.split("."):
        value = value[part]
    if isinstance(value, Mapping):
        return {name: option for name, option in value.items() if option not in (None, {})}
    return value


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return key -> its shortest telling name: ``method.name`` is ``method``, ``data.test_limit`` is ``test limit``."""
    names = {}
    for key in keys:
        parts = key.split(".")
        if parts[-1] == "name" and len(parts) > 1:
            parts = parts[:-1]
        names[key] = ".".join(parts[-2:]) if len(parts) > 2 else parts[-1]
    clashes = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {key: key if name in clashes else name.replace("_", " ") for key, name in names.items()}


def show_value(value: Any) -> str:
    """Return a value as a table shows it: a bundle of options as its name and the rest, ``dirichlet alpha=0.3``."""
    if isinstance(value, Mapping):
        name = [str(value["name"])] if "name" in value else []
        return " ".join(name + [f"{key}={show_value(option)}" for key, option in value.items() if key != "name"])
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, list):
        return ", ".join(show_value(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _section(annotation: Any) -> type[Section] | None:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)


def _is_free_mapping(annotation: Any) -> bool:
    return typing.get_origin(annotation) is dict
