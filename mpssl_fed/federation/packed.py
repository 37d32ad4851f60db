"""All arrays of a message as one: what Flower sends apart, each array and each 5 MiB of it, it stores, signs and fetches apart too.

Half a network's arrays are biases and norms of a few hundred bytes; over TLS into the SuperLink's database each takes as long as
a large one. Who can read such a message says so on its card, so older sites are sent arrays one by one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict

from mpssl_fed.federation.array_bytes import Arrays, pack, unpack

PACKED = "packed"
"""Name of the one array, key of its safetensors metadata, and key of a card: 1 where the site reads and answers so."""

STYPE = "safetensors"


def in_one(record: ArrayRecord) -> ArrayRecord:
    """Return ``record`` in one array, itself where it has no two; TypeError or ValueError for what is not numpy's."""
    return whole({name: array.numpy() for name, array in record.items()}) if len(record) > 1 else record


def whole(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return ``arrays`` as a record of one array."""
    body = pack(arrays, PACKED, {})
    return ArrayRecord({PACKED: Array("uint8", (len(body),), STYPE, body)})


def is_one(record: object) -> bool:
    """Whether ``record`` is what :func:`in_one` makes of several."""
    return isinstance(record, ArrayRecord) and list(record) == [PACKED] and record[PACKED].stype == STYPE


def values(record: ArrayRecord) -> Arrays:
    """Return the arrays of ``record``, packed or not; ValueError or TypeError where it is neither."""
    if is_one(record):
        return unpack(bytes(record[PACKED].data), PACKED)[0]
    return {name: array.numpy() for name, array in record.items()}


def size(content: RecordDict) -> int:
    """Return the bytes of all arrays in ``content``, as they lie there."""
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())
