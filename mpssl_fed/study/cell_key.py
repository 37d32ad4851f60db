"""What names a cell of a study: the hash of what its config sets otherwise than the defaults.

A hash of the whole resolved config would change with every key that the toolkit gains, and committed rows would go stale
though nothing that they measured changed. A default that changes its value is a matter of the method version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.config.data import Partition
from mpssl_fed.config.federation import Strategy
from mpssl_fed.config.learning import METHOD_DEFAULTS, Method

NAMING = (("method",), ("data", "partition"), ("federation", "strategy"))
"""Sections in which a name decides the defaults of the other keys."""


def cell_key(config: Config, method_version: int) -> str:
    """Return the SHA-256, 64 hex digits, of the method version and of :func:`differing`."""
    text = json.dumps([method_version, differing(config)], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differing(config: Config) -> dict[str, Any]:
    """Return the keys of ``config``, nested, whose values differ from the defaults.

    Within a section that a name rules (method, partitioner, strategy) the defaults are those of that name, and the name itself
    stands there unless it is the default one. What a named method brings of its own (``METHOD_DEFAULTS``) is always there, so that
    revising it names other cells. Without ``output``, ``federation.backend`` and ``workers``, which change no result.
    """
    own = config.dump()
    del own["output"]
    del own["federation"]["backend"], own["federation"]["workers"]
    plain = json.loads(_plain())
    fields = _difference(own, plain)
    for path in NAMING:
        *parents, leaf = path
        section, default, place = own, plain, fields
        for parent in parents:
            section, default, place = section[parent], default[parent], place.setdefault(parent, {})
        named = _named(leaf, section[leaf])
        names = {key: named[key] for key in ("name", "source", "loss") if named.get(key) != default[leaf].get(key)}
        place[leaf] = names | _difference(section[leaf], named)
    brought = METHOD_DEFAULTS.get(own["method"]["name"] or "", {})
    fields["method"] = _joined(fields["method"], _at(own["method"], brought))
    return _without_empty(fields)


def _named(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a section for the name that ``values`` holds."""
    model: Any = {"method": Method, "partition": Partition, "strategy": Strategy}[section]
    name = {key: values[key] for key in ("name", "source", "loss") if key in values}
    fields: dict[str, Any] = model.model_validate(name).model_dump(mode="json", by_alias=True)
    return fields


def _difference(own: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(default.get(key), Mapping):
            found[key] = _difference(value, default[key])
        elif key not in default or value != default[key]:
            found[key] = value
    return found


def _at(own: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of ``own`` at the nested ``keys``."""
    return {key: _at(own[key], inner) if isinstance(inner, Mapping) else own[key] for key, inner in keys.items()}


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    joined = {**one, **other}
    both = [key for key in one if isinstance(one[key], Mapping) and isinstance(other.get(key), Mapping)]
    return joined | {key: _joined(one[key], other[key]) for key in both}


def _without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: _without_empty(value) if isinstance(value, Mapping) else value for key, value in fields.items()}
    return {key: value for key, value in kept.items() if value != {}}


@cache
def _plain() -> str:
    return json.dumps(Config().dump())
