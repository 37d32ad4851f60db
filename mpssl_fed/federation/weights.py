"""Classifier weights on the wire: float32 arrays by name, checked before use, named by their hash."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.models import Block, Layout, Weights

NUMPY_STYPE, NPY = "numpy.ndarray", b"\x93NUMPY\x01\x00"
LARGEST, LARGEST_BIAS, LARGEST_VARIANCE = 1e3, 25.0, 1e6
"""Bounds of any weight, of the head's bias and of BatchNorm's running variance. The largest seen in runs of every kind of model,
warm starts and strong noise among them, are 18, 16 and 7; a bias of 55 would make one class certain, whatever the image."""


def bound(key: str) -> float:
    """Return the largest magnitude of an entry of the weight ``key``, the same for what a server sends and what a site answers."""
    return LARGEST_BIAS if key == "head.bias" else LARGEST_VARIANCE if key.endswith("running_var") else LARGEST


def to_record(weights: Mapping[str, Tensor]) -> ArrayRecord:
    """Return ``weights`` as a Flower record, float32, in sorted order of names."""
    return ArrayRecord({key: _array(weights[key]) for key in sorted(weights)})


def from_record(record: ArrayRecord, like: Mapping[str, Tensor], largest: Callable[[str], float] = bound) -> Weights:
    """Return the tensors of ``record``; Refusal unless names, shapes and dtype are those of ``like`` and all are finite
    and at most ``largest`` of their name, no variance of BatchNorm below 0.

    The declared shape and size are compared before a byte is parsed, so a reply cannot make the receiver allocate more.
    """
    if record.keys() != like.keys():
        raise Refusal("misshapen")
    weights: Weights = {}
    for key, want in like.items():
        array = record[key]
        header_and_data = 4 * want.numel() + 1024
        if array.stype != NUMPY_STYPE or array.dtype != "float32" or tuple(array.shape) != tuple(want.shape):
            raise Refusal("misshapen")
        if len(array.data) > header_and_data:
            raise Refusal("misshapen")
        values = npy_values(array)
        if not np.isfinite(values).all():
            raise Refusal("non-finite")
        if values.size and np.abs(values).max() > largest(key):
            raise Refusal("too-large")
        if key.endswith("running_var") and (values < 0).any():
            raise Refusal("number")  # the root of it would make every output NaN
        weights[key] = torch.from_numpy(np.array(values, order="C"))
    return weights


def flat(weights: Mapping[str, Tensor]) -> np.ndarray:
    """Return all entries as one float64 vector, in sorted order of names."""
    return np.concatenate([weights[key].detach().to("cpu", torch.float64).numpy().ravel() for key in sorted(weights)])


def unflat(vector: np.ndarray, like: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the arrays, shaped like ``like``, whose entries :func:`flat` puts into ``vector``; views of it."""
    found, at = {}, 0
    for key in sorted(like):
        end = at + like[key].numel()
        found[key], at = vector[at:end].reshape(tuple(like[key].shape)), end
    return found


def require_like(weights: Weights, like: Mapping[str, Tensor]) -> Weights:
    """Return ``weights`` that were handed over in this process; Refusal as :func:`from_record` has it for a record of them."""
    if not (isinstance(weights, Block) and weights.layout == Layout.of(like)):
        if weights.keys() != like.keys():
            raise Refusal("misshapen")
        if any(weights[key].shape != want.shape or weights[key].dtype != torch.float32 for key, want in like.items()):
            raise Refusal("misshapen")
    require_sound(weights)
    return weights


def require_sound(weights: Mapping[str, Tensor]) -> None:
    """Raise Refusal unless :func:`usable`, by the code that says why."""
    if usable(weights):
        return
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise Refusal("non-finite")
    too_large = any(value.numel() and float(value.abs().max()) > bound(key) for key, value in weights.items())
    raise Refusal("too-large" if too_large else "number")


def usable(weights: Mapping[str, Tensor]) -> bool:
    """Whether a site would take these weights: all finite, at most :func:`bound`, and no variance below 0."""
    if isinstance(weights, Block) and weights.flat.numel():
        least, largest = (float(end) for end in weights.flat.aminmax())
        if least >= -LARGEST_BIAS and largest <= LARGEST_BIAS and not weights.layout.has_variances:
            return True  # within the narrowest bound of all
    return all(
        bool((tensor.abs() <= bound(key)).all()) and not (key.endswith("running_var") and bool((tensor < 0).any()))
        for key, tensor in weights.items()
    )


def _array(tensor: Tensor) -> Array:
    """Return ``Array(tensor)`` without going through a file object."""
    values = np.asarray(tensor.detach().to("cpu", torch.float32).numpy(), dtype="<f4")
    return Array("float32", values.shape, NUMPY_STYPE, npy_header(values.shape) + values.tobytes())


def npy_values(array: Array, kind: str = "<f4") -> np.ndarray:
    """Return the values, a view of the array's bytes; Refusal unless those are the ``.npy`` of its shape, padded in any way.

    ``numpy.load`` would evaluate the header, unpack an archive, and allocate whatever the header claims.
    """
    shape, data, size = tuple(array.shape), bytes(array.data), np.dtype(kind).itemsize
    text = npy_header(shape, kind)[10:].strip()
    start = 10 + int.from_bytes(data[8:10], "little")
    if data[:8] != NPY or data[10:start].strip() != text or len(data) != start + size * math.prod(shape):
        raise Refusal("malformed")
    return np.frombuffer(data, np.dtype(kind), offset=start).reshape(shape)


@lru_cache(maxsize=4096)
def npy_header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """Return the first bytes of a ``.npy`` file of this shape and kind of number."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (64 hex digits) of names, shapes and bytes; equal for equal weights, whatever their order."""
    total = hashlib.sha256()
    for key in sorted(weights):
        values = np.array(weights[key].detach().to("cpu", torch.float32).numpy(), order="C")
        total.update(f"{len(key)}:{key}{values.shape}".encode())
        total.update(values.tobytes())
    return total.hexdigest()
