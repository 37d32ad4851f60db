"""The rows of a ledger as data, and what they add up to; no file is touched here."""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mpssl_fed.privacy.ledger_errors import OutsidePlanError
from mpssl_fed.privacy.shared.history import History, Key, charge, unlisted

ALL = "*"
"""The data set of a row that concerns every data set of the ledger."""


@dataclass(frozen=True)
class Row:
    """One line of the ledger; time: UTC, for the reader alone.

    kind: created, head, records, accepted, run, reserve, unaccounted or gap.
    """

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
    """A run: the plan it committed to (SHA-256, fields, allowed history, terms), what it has reserved, in how many rounds and
    evaluations, when.

    limit: the lifetime limit that admitted it, ``{"max_epsilon", "delta"}``; empty where it was not put down.
    """

    commitment: str
    scope: str
    terms: str
    planned: dict[Key, int]
    reserved: dict[Key, int] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    limit: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    evaluations: int = 0
    first: str = ""
    last: str = ""

    def require_plan(self, run: str, commitment: str) -> None:
        """OutsidePlanError where ``run``, which this is, committed to another plan."""
        if self.commitment != commitment:
            raise OutsidePlanError(f"run '{run}' committed to plan {self.commitment[:12]}, not {commitment[:12]}: start a new run")

    def require_left(self, run: str, number: int, history: History) -> None:
        """OutsidePlanError where the plan has fewer releases left, of any kind, than round ``number`` asks for."""
        for key, n in history.items():
            left = self.planned.get(key, 0) - self.reserved.get(key, 0)
            if n > left:
                asked = f"{n} releases with sigma={key[0]:g}, q={key[1]:g}"
                raise OutsidePlanError(f"run '{run}' round {number} asks for {asked}; its plan has {left} left")


@dataclass
class Spent:
    """What a data set has spent over its life: the merged history, its runs, and why it is unaccounted, if it is.

    first, last: when it was charged; empty where it never was.
    """

    dataset: str
    history: dict[Key, int] = field(default_factory=dict)
    runs: dict[str, RunSpent] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    first: str = ""
    last: str = ""

    @property
    def unaccounted(self) -> bool:
        """Whether it was read, or may have been, outside the accounting: epsilon is then infinite."""
        return bool(self.reasons)

    @property
    def terms(self) -> dict[str, str]:
        """Run -> the terms it was admitted under."""
        return {run: spent.terms for run, spent in self.runs.items()}

    @property
    def units(self) -> set[str]:
        """The units of privacy that its runs were charged by, as far as their plans say."""
        return {str(run.plan["unit"]) for run in self.runs.values() if "unit" in run.plan}

    def add(self, row: Row) -> None:
        """Take in one row of this data set, or of all of them."""
        body = row.body
        if row.kind == "run":
            self.runs[row.run] = RunSpent(
                body["commitment"],
                body["scope"],
                body["terms"],
                unlisted(body["releases"]),
                plan=dict(body.get("plan", {})),
                limit=dict(body.get("limit", {})),
            )
        elif row.kind == "unaccounted":
            self.reasons.append(f"run '{row.run}': {body['reason']}")
        elif row.kind == "gap" and body["releases"] is None:
            self.reasons.append(f"rows {body['from'] + 1} to {body['to']} are lost")
        elif row.kind in ("reserve", "gap"):
            charge(self.history, body["releases"])
            self.first, self.last = self.first or row.time, row.time
        if row.kind == "reserve":
            run = self.runs[row.run]
            charge(run.reserved, body["releases"])
            evaluation = bool(body.get("evaluation"))
            run.rounds, run.evaluations = run.rounds + (not evaluation), run.evaluations + evaluation
            run.first, run.last = run.first or row.time, row.time

    def copy(self) -> Spent:
        """Return it as it is now, whatever rows follow."""
        runs = {name: replace(run, reserved=dict(run.reserved)) for name, run in self.runs.items()}
        return replace(self, history=dict(self.history), runs=runs, reasons=list(self.reasons))


class Tally:
    """What every data set has spent, kept up row by row."""

    def __init__(self) -> None:
        self._of: dict[str, Spent] = {}
        self._of_all: list[Row] = []

    @property
    def datasets(self) -> list[str]:
        """The names that rows were written under, in alphabetical order."""
        return sorted(self._of)

    def add(self, row: Row) -> None:
        """Take in the next row."""
        if row.dataset == ALL:
            self._of_all.append(row)
            for spent in self._of.values():
                spent.add(row)
        else:
            if row.dataset not in self._of:
                self._of[row.dataset] = self._new(row.dataset)
            self._of[row.dataset].add(row)

    def of(self, dataset: str) -> Spent:
        """Return what ``dataset`` has spent, equal (sigma, q) merged."""
        return self._of[dataset].copy() if dataset in self._of else self._new(dataset)

    def view(self, dataset: str) -> Spent:
        """Return the same to be read before the next row comes: its runs are the tally's own, of which there may be many."""
        found = self._of.get(dataset)
        return self._new(dataset) if found is None else replace(found, history=dict(found.history))

    def _new(self, dataset: str) -> Spent:
        spent = Spent(dataset)
        for row in self._of_all:
            spent.add(row)
        return spent


def spending(rows: Sequence[Row], dataset: str) -> Spent:
    """Return what ``dataset`` has spent by ``rows``, equal (sigma, q) merged."""
    tally = Tally()
    for row in rows:
        tally.add(row)
    return tally.of(dataset)


def row_mac(key: bytes, previous: str, fields: tuple[Any, ...]) -> bytes:
    """Return the HMAC-SHA256 of a row's fields and of the MAC (hex) of the row before; a field may be of any type."""
    return hmac.digest(key, json.dumps(["row", previous, *fields], default=repr).encode(), "sha256")
