"""The one typed schema of a run; imports no other part of the house but errors."""

from __future__ import annotations

from mpssl_fed.config.learning import METHODS
from mpssl_fed.config.load import (
    PROTOCOL_VERSION,
    Config,
    app_folder,
    config_folder,
    draws_from_generator,
    find,
    from_json,
    from_mapping,
    load,
    override,
)
from mpssl_fed.config.overrides import Given, Override
from mpssl_fed.config.plain import read_mapping, to_yaml

__all__ = [
    "METHODS",
    "PROTOCOL_VERSION",
    "Config",
    "Given",
    "Override",
    "app_folder",
    "config_folder",
    "draws_from_generator",
    "find",
    "from_json",
    "from_mapping",
    "load",
    "override",
    "read_mapping",
    "to_yaml",
]
