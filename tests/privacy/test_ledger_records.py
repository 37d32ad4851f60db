"""Per-record HMACs: data may grow or shrink, a swap or an alias shows, and spending never resets."""

from __future__ import annotations

import hashlib
import sqlite3

import pytest

from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.ledger_files import EditedRowError, SharedRecordsError, SwappedDataError
from tests.privacy.conftest import reserve


def units(*range_: int) -> list[bytes]:
    return [f"image {i}".encode() for i in range(*range_)]


def test_data_may_grow_and_shrink_and_spending_stays(ledger: Ledger) -> None:
    reserve(ledger)
    truth = ledger.spent("chest").history
    assert vars(ledger.add_records("chest", units(10))) == {"known": 0, "new": 10, "missing": 0}
    assert vars(ledger.add_records("chest", units(10))) == {"known": 10, "new": 0, "missing": 0}
    assert vars(ledger.add_records("chest", units(15))) == {"known": 10, "new": 5, "missing": 0}
    assert vars(ledger.add_records("chest", units(4))) == {"known": 4, "new": 0, "missing": 11}
    assert ledger.spent("chest").history == truth
    assert ledger.verify() == 5


def test_a_swapped_data_set_and_an_alias_are_refused(ledger: Ledger) -> None:
    ledger.add_records("chest", units(10))
    with pytest.raises(SwappedDataError, match="another name"):
        ledger.add_records("chest", units(100, 120))
    with pytest.raises(SharedRecordsError, match="charged as 'chest'"):
        ledger.add_records("fresh", units(9, 30))
    assert vars(ledger.add_records("fresh", units(10, 30))) == {"known": 0, "new": 20, "missing": 0}


def test_record_hmacs_hide_the_records_and_their_loss_is_found(ledger: Ledger) -> None:
    ledger.add_records("chest", units(3))
    raw = ledger.files.database.read_bytes()
    assert hashlib.sha256(b"image 0").digest() not in raw
    assert b"image 0" not in raw
    db = sqlite3.connect(ledger.files.database, isolation_level=None)
    db.execute("DELETE FROM records WHERE mac = (SELECT min(mac) FROM records)")
    db.close()
    with pytest.raises(EditedRowError, match="records of row 3"):
        ledger.verify()
