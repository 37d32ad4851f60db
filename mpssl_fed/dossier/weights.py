"""What the header of model.safetensors says, read without building anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mpssl_fed.errors import UserError
from mpssl_fed.files import parse_json, readable, sha256
from mpssl_fed.runs.reader import MODEL


@dataclass(frozen=True)
class Header:
    """Name, SHA-256 and number of weights of a model file, and its architecture as the file states it."""

    file: str
    sha256: str
    parameters: int
    architecture: Mapping[str, Any]


def header(folder: Path) -> Header | None:
    """Return the header of the model of the run in ``folder``, None where it has none yet; UserError for a damaged file."""
    file = folder / MODEL
    if not file.exists():
        return None
    try:
        with safe_open(readable(file), framework="np") as content:
            parameters = sum(math.prod(content.get_slice(key).get_shape()) for key in content.keys())  # noqa: SIM118
            architecture = parse_json((content.metadata() or {}).get("architecture", "{}"))
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{file}: not a model of this toolkit: {error}") from error
    if not isinstance(architecture, dict):
        raise UserError(f"{file}: damaged, its 'architecture' is no table")
    return Header(MODEL, sha256(file), parameters, architecture)
