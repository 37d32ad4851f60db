"""What may leave a site: listed keys with their type, shape, range and size. The rest is dropped and counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ArraySpec:
    """An array: exactly this shape and dtype ("float32"), every entry finite and at most ``largest`` in magnitude."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    largest: float = math.inf

    def fault(self, value: Any) -> str | None:
        """Return why ``value`` may not pass, as a word without data, or None."""
        if type(value) is not np.ndarray:
            return "type"
        if value.dtype != np.dtype(self.dtype):
            return "dtype"
        if value.shape != self.shape:
            return "shape"
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return "non-finite"
        return "range" if value.size and np.abs(value).max() > self.largest else None


@dataclass(frozen=True)
class NumberSpec:
    """A number within [low, high]; whole: an int and not a float. A bool is no number."""

    low: float
    high: float
    whole: bool = False

    def fault(self, value: Any) -> str | None:
        """See :meth:`ArraySpec.fault`."""
        if type(value) is not int and (self.whole or type(value) is not float):
            return "type"
        if type(value) is float and not math.isfinite(value):
            return "non-finite"
        return None if self.low <= value <= self.high else "range"


@dataclass(frozen=True)
class WordSpec:
    """One of some words known beforehand; free text never leaves."""

    words: frozenset[str]

    def fault(self, value: Any) -> str | None:
        """See :meth:`ArraySpec.fault`."""
        if type(value) is not str:
            return "type"
        return None if value in self.words else "word"


Spec = ArraySpec | NumberSpec | WordSpec


@dataclass(frozen=True)
class Passed:
    """What passed; how much was dropped, by reason (``unlisted``, ``type``, ``dtype``, ...); which listed keys are missing.

    A reply that lacks a listed key is not to be sent: ``complete`` says whether it has all of them.
    """

    record: dict[str, Any]
    dropped: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every listed key passed."""
        return not self.missing


def allow(record: Mapping[str, Any], listed: Mapping[str, Spec], max_bytes: int = 1 << 30) -> Passed:
    """Return what of ``record`` may leave, in the order of ``listed``; arrays as contiguous copies with no base.

    max_bytes: size of all arrays together; those that would exceed it are dropped as ``size``. Keys that are not listed are
    counted and never looked at. The record is not changed.
    """
    kept: dict[str, Any] = {}
    dropped: Counter[str] = Counter()
    size = 0
    for key, spec in listed.items():
        if key not in record:
            continue
        value = record[key]
        fault = spec.fault(value)
        if fault is None and isinstance(value, np.ndarray):
            size += value.nbytes
            fault = "size" if size > max_bytes else None
        if fault is not None:
            dropped[fault] += 1
        else:
            # a view could carry the rest of its buffer along
            kept[key] = np.array(value, order="C", copy=True) if isinstance(value, np.ndarray) else value
    unlisted = sum(key not in listed for key in record)
    if unlisted:
        dropped["unlisted"] = unlisted
    return Passed(kept, dict(dropped), tuple(key for key in listed if key not in kept))


def like(arrays: Mapping[str, np.ndarray], largest: Callable[[str], float] = lambda _: math.inf) -> dict[str, Spec]:
    """Return the specs of arrays shaped like these; the released classifier's, taken from the model and not from a reply.

    largest: key -> the largest magnitude of an entry.
    """
    return {key: ArraySpec(value.shape, value.dtype.name, largest(key)) for key, value in arrays.items()}
