"""The one typed schema of a run; imports no other part of the house but errors."""

from __future__ import annotations

from mpssl_fed.config.learning import METHODS
from mpssl_fed.config.load import (
    PROTOCOL_VERSION,
    Config,
    config_folder,
    find,
    from_json,
    from_mapping,
    load,
    override,
    read_mapping,
)

__all__ = [
    "METHODS",
    "PROTOCOL_VERSION",
    "Config",
    "config_folder",
    "find",
    "from_json",
    "from_mapping",
    "load",
    "override",
    "read_mapping",
]
