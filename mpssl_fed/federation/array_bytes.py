"""Arrays by name as bytes: safetensors, with text of ours in their metadata. Imports neither Flower nor torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from mpssl_fed.files import parse_json

MOST_HEADER = 1 << 20
Arrays = dict[str, np.ndarray]


def pack(arrays: Mapping[str, np.ndarray], key: str, fields: Mapping[str, Any]) -> bytes:
    """Return ``arrays`` as safetensors with ``fields`` as JSON under the metadata ``key``."""
    contiguous = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    return safetensors.numpy.save(contiguous, {key: json.dumps(fields, allow_nan=False)})


def unpack(body: bytes, key: str) -> tuple[Arrays, str]:
    """Return (arrays, the JSON text under ``key``); ValueError unless ``body`` is safetensors with that key alone."""
    if len(body) < 8:
        raise ValueError("too short")
    (length,) = struct.unpack("<Q", body[:8])
    if length > min(MOST_HEADER, len(body) - 8):
        raise ValueError("header too long")
    found = parse_json(body[8 : 8 + length])
    metadata = found.get("__metadata__") if isinstance(found, dict) else None
    if not isinstance(metadata, dict) or set(metadata) != {key}:
        raise ValueError("metadata")
    try:
        return safetensors.numpy.load(body), str(metadata[key])
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError("not safetensors") from error
