"""The rows of a ledger as data, and what they add up to; no file is touched here."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

History = Mapping[tuple[float, float], int]

ALL = "*"
"""The data set of a row that concerns every data set of the ledger."""


@dataclass(frozen=True)
class Row:
    """One line of the ledger. kind: created, records, run, reserve, unaccounted or gap; time: UTC, for the reader alone."""

    seq: int
    dataset: str
    kind: str
    run: str
    round: int
    body: dict[str, Any]
    time: str
    mac: str


@dataclass
class RunSpent:
    """A run: the plan it committed to (SHA-256, allowed history, terms) and what it has reserved."""

    commitment: str
    scope: str
    terms: str
    planned: dict[tuple[float, float], int]
    reserved: dict[tuple[float, float], int] = field(default_factory=dict)


@dataclass
class Spent:
    """What a data set has spent over its life: the merged history, its runs, and why it is unaccounted, if it is."""

    dataset: str
    history: dict[tuple[float, float], int] = field(default_factory=dict)
    runs: dict[str, RunSpent] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def unaccounted(self) -> bool:
        """Whether it was read, or may have been, outside the accounting: epsilon is then infinite."""
        return bool(self.reasons)

    @property
    def terms(self) -> dict[str, str]:
        """Run -> the terms it was admitted under."""
        return {run: spent.terms for run, spent in self.runs.items()}


def spending(rows: Sequence[Row], dataset: str) -> Spent:
    """Return what ``dataset`` has spent by ``rows``, equal (sigma, q) merged."""
    spent = Spent(dataset)
    for row in rows:
        if row.dataset not in (dataset, ALL):
            continue
        if row.kind == "run":
            body = row.body
            spent.runs[row.run] = RunSpent(body["commitment"], body["scope"], body["terms"], merged([body["releases"]]))
        elif row.kind == "reserve":
            releases = row.body["releases"]
            spent.history = merged([listed(spent.history), releases])
            run = spent.runs[row.run]
            run.reserved = merged([listed(run.reserved), releases])
        elif row.kind == "unaccounted":
            spent.reasons.append(f"run '{row.run}': {row.body['reason']}")
        elif row.kind == "gap" and row.body["releases"] is None:
            spent.reasons.append(f"rows {row.body['from'] + 1} to {row.body['to']} are lost")
        elif row.kind == "gap":
            spent.history = merged([listed(spent.history), row.body["releases"]])
    return spent


def listed(history: History) -> list[list[float]]:
    """Return a history as JSON holds it: [[sigma, q, n], ...]."""
    return [[sigma, q, n] for (sigma, q), n in sorted(history.items())]


def merged(lists: Iterable[Iterable[Sequence[float]]]) -> dict[tuple[float, float], int]:
    """Return several such lists as one history, equal (sigma, q) added up."""
    total: dict[tuple[float, float], int] = {}
    for releases in lists:
        for sigma, q, n in releases:
            total[float(sigma), float(q)] = total.get((float(sigma), float(q)), 0) + int(n)
    return total


def row_mac(key: bytes, previous: str, fields: tuple[Any, ...]) -> bytes:
    """Return the HMAC-SHA256 of a row's fields and of the MAC (hex) of the row before; a field may be of any type."""
    return hmac.digest(key, json.dumps(["row", previous, *fields], default=repr).encode(), "sha256")


def record_mac(key: bytes, unit: bytes) -> bytes:
    """Return the HMAC-SHA256 under which a unit of data is on record."""
    return hmac.digest(key, b"record " + hashlib.sha256(unit).digest(), "sha256")
