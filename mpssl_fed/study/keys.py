"""Config keys in a study file: which exist, how a cell sets one, and the short name a table shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.config.keys import UNKNOWN, annotation_of, holds_list, keys_below, keys_beside
from mpssl_fed.errors import UserError, nearest

NOT_COMPARED = {
    "seed": "give the seeds under 'seeds'",
    "output": "a study names the folder of each cell itself",
    "federation.backend": "the engine does not change a result, so both cells would be the same",
    "federation.workers": "the number of processes does not change a result, so both cells would be the same",
}
"""Keys that no grid may hold, with what to do instead."""

Settings = dict[str, Any]
"""What tells one arm of a study from another: grid key (or ``variant``) -> value."""


def check_key(key: str, where: str) -> None:
    """Raise UserError, with the nearest valid key, unless ``key`` (dotted) names a part of the config that a study may vary."""
    for forbidden, cure in NOT_COMPARED.items():
        if key == forbidden or key.startswith(forbidden + "."):
            raise UserError(f"{where}: key '{key}' cannot vary in a study: {cure}")
    parts = key.split(".")
    for end, part in enumerate(parts, start=1):
        if annotation_of(Config, ".".join(parts[:end])) is UNKNOWN:
            beside = keys_beside(Config, parts[:end])
            valid = f" Valid there: {', '.join(beside)}" if beside else f" '{part}' lies below a value"
            raise UserError(f"{where}: unknown config key '{key}'.{nearest(key, keys_below(Config))}{valid}")


def takes_list(key: str) -> bool:
    """Return whether the value of the valid dotted ``key`` is itself a list, as that of optim.betas is."""
    return holds_list(annotation_of(Config, key))


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


def label(settings: Settings) -> str:
    """Return the settings in words, ``mp-ssl · half-strong``; numbers and flags carry the name of their key."""
    short = short_names(list(settings))
    words = []
    for key, value in settings.items():
        text = show_value(value)
        words.append(text if isinstance(value, str | Mapping) else f"{short[key]} {text}")
    return " · ".join(words)


def arm_of(settings: Settings) -> str:
    """Return a hashable name of the settings, the same whatever the order of nested keys."""
    return json.dumps(settings, sort_keys=True)
