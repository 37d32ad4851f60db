"""The site's durable record of releases: rows are reserved here, on disk, before the first private read of a round.

Append-only SQLite, each row chained to the one before by an HMAC under a 0600 key; number and MAC of the last row also
stand in a second file. It guards against accident, other users and the server, not against the owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mpssl_fed.privacy.ledger_books import Books
from mpssl_fed.privacy.ledger_files import EditedRowError, LedgerError, LedgerFiles, OutsidePlanError
from mpssl_fed.privacy.ledger_records import Identities, Overlap, digest_of, kinds_of
from mpssl_fed.privacy.ledger_rows import ALL, Row, RunSpent, Spent, spending
from mpssl_fed.privacy.ledger_store import Store
from mpssl_fed.privacy.shared.history import History, listed

__all__ = ["ALL", "Identities", "Ledger", "Overlap", "PlannedRun", "Row", "RunSpent", "Spent", "spending"]

SIMULATED = "simulated: runs do not compose"


@dataclass(frozen=True)
class PlannedRun:
    """What a run binds itself to before its first read. plan: its numbers, for the reader; commitment: their digest, which every
    later round is held to; history: all its releases; scope: of privacy."""

    plan: Mapping[str, Any]
    commitment: str
    history: History
    scope: str

    def body(self) -> dict[str, Any]:
        """Return what the run's first row says of it, its releases apart."""
        return {"plan": dict(self.plan), "commitment": self.commitment, "scope": self.scope}


class Ledger:
    """A ledger on disk; many threads and processes may use one. Every method raises one of the errors of ``ledger_files``.

    head: where the head lives; without it, where the ledger itself says that it does.
    """

    def __init__(self, path: str | Path, head: str | Path | None = None, clock: Callable[[], datetime] | None = None) -> None:
        self._store = Store(path, head, clock)

    @classmethod
    def create(cls, path: str | Path, head: str | Path | None = None, simulated: bool = False) -> Ledger:
        """Make an empty ledger; LedgerError where one is or was. simulated: of a study, whose runs do not compose."""
        ledger = cls(path, head)
        ledger.make(simulated)
        return ledger

    def make(self, simulated: bool = False) -> None:
        """Make its files, which no ledger may have been in; see :meth:`create`."""
        self._store.create({"version": 1} | ({"note": SIMULATED} if simulated else {}))

    @property
    def files(self) -> LedgerFiles:
        """Its paths; the head's is the one that the ledger names once it has been read."""
        return self._store.files

    @property
    def simulated(self) -> bool:
        """Whether this is the ledger of a simulated site."""
        with self._store.reading() as (_, books):
            return books.first is not None and books.first.body.get("note") == SIMULATED

    @property
    def datasets(self) -> list[str]:
        """The names of its data sets, in alphabetical order."""
        with self._store.reading() as (_, books):
            return books.tally.datasets

    def rows(self) -> list[Row]:
        """Return all rows, oldest first, after checking the chain and the head."""
        with self._store.reading(whole=True) as (_, books):
            return books.rows

    def spent(self, dataset: str) -> Spent:
        """Return what ``dataset`` has spent over its life."""
        with self._store.reading() as (_, books):
            return books.tally.of(dataset)

    def begin_run(
        self,
        dataset: str,
        run: str,
        planned: PlannedRun,
        judge: Callable[[Spent], str],
        limit: Mapping[str, float] | None = None,
    ) -> str:
        """Write the run's first row, with its plan, and return its terms; the same plan again changes nothing.

        judge sees what was spent, inside the transaction, and returns the terms or raises; limit: the lifetime limit it goes by,
        for the reader. A scope that does not account for every read writes an ``unaccounted`` row first. OutsidePlanError when
        the run committed to another plan.
        """
        commitment = planned.commitment
        if planned.scope != "end-to-end":
            self.mark_unaccounted(dataset, run, f"scope {planned.scope}")
        with self._store.transaction() as change:
            before = change.books.tally.view(dataset)
            known = before.runs.get(run)
            if known:
                known.require_plan(run, commitment)
                return known.terms
            terms = judge(before)
            body = planned.body() | {"terms": terms, "releases": listed(planned.history)}
            change.append(dataset, "run", run, 0, body | ({"limit": dict(limit)} if limit else {}))
        return terms

    def reserve(
        self, dataset: str, run: str, number: int, history: History, judge: Callable[[Spent], None], evaluation: bool = False
    ) -> int:
        """Reserve all releases of a round and return the row's number; on disk when this returns, never refunded.

        evaluation: of the model after the round; judge sees what was spent, inside the transaction, and raises to refuse.
        OutsidePlanError when the run has no plan, or its reservations with this one exceed it in any kind of release.
        """
        with self._store.transaction() as change:
            before = change.books.tally.view(dataset)
            known = before.runs.get(run)
            if known is None:
                raise OutsidePlanError(f"run '{run}' has committed to no plan for data set '{dataset}'")
            known.require_left(run, number, history)
            judge(before)
            body = {"releases": listed(history)} | ({"evaluation": True} if evaluation else {})
            return change.append(dataset, "reserve", run, number, body).seq

    def mark_unaccounted(self, dataset: str, run: str, reason: str) -> None:
        """Record that ``run`` reads the data outside the accounting; once a run is enough."""
        with self._store.transaction() as change:
            if (dataset, run) not in change.books.unaccounted:
                change.append(dataset, "unaccounted", run, 0, {"reason": reason})

    def add_records(self, dataset: str, data: Identities | Iterable[bytes]) -> Overlap:
        """Record what identifies the images and subjects of a data set, as HMACs, so that a later swap or alias shows.

        data: bare bytes identify images. SharedRecordsError when one stands under another name; SwappedDataError when none of
        those on record is left.
        """
        data = data if isinstance(data, Identities) else Identities(frozenset(data))
        with self._store.transaction() as change:
            overlap, new = change.books.records.compare(dataset, data, change.key, change.books.tally)
            if new:
                body = {"added": len(new), "kinds": kinds_of(new), "sha256": digest_of(new)}
                change.append(dataset, "records", "", 0, body, frozenset(new))
        return overlap

    def compare(self, dataset: str, data: Identities) -> Overlap:
        """Return what :meth:`add_records` would, with its errors; nothing is written."""
        with self._store.reading() as (_, books):
            return books.records.compare(dataset, data, self.files.load_key(), books.tally)[0]

    def accept(self, dataset: str, note: str = "") -> Row:
        """Let the next images of ``dataset`` differ from all on record, by the owner's word that they are the same ones in new
        files; what was spent stays. LedgerError for a name that the ledger does not hold."""
        with self._store.transaction() as change:
            names = change.books.tally.datasets
            if dataset not in names:
                raise LedgerError(f"data set '{dataset}' is not in this ledger; it holds {', '.join(names) or 'none'}")
            return change.append(dataset, "accepted", "", 0, {"note": note})

    def move_head(self, to: str | Path) -> Row:
        """Let the head live at ``to`` from now on; LedgerError where another one lies."""
        return self._store.move_head(Path(to))

    def verify(self) -> int:
        """Check file, chain, head and records; return the number of rows. The error says what is wrong."""
        with self._store.reading(whole=True) as (db, books):
            damage = db.execute("PRAGMA integrity_check").fetchone()[0]
            if damage != "ok":
                raise EditedRowError(f"{self.files.database}: damaged ({damage}); bring a backup back by `ledger restore`")
            return books.count

    def book_gap(self, releases: History | None, backup: str | Path | None = None, note: str = "") -> Row:
        """Put an earlier copy in place (``backup``, or what is there) and book what may be lost since; the owner's decision.

        releases: what was released since, at most, charged to every data set; None: unknown, so epsilon is infinite from now
        on. The copy's own chain must be whole and under the same key.
        """

        def body(books: Books, head: int | None) -> dict[str, Any]:
            said = note or ("head unreadable" if head is None else "")
            booked = None if releases is None else listed(releases)
            return {"from": books.seq, "to": max(books.seq, head or 0), "releases": booked, "note": said}

        return self._store.put_back(None if backup is None else Path(backup), body)
