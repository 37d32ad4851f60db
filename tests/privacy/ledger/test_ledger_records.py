"""Per-record HMACs: data may grow or shrink, a swap or an alias shows, and spending never resets."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.privacy.ledger import Identities, Ledger, PlannedRun
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


def known(images: list[bytes], subjects: tuple[str, ...] = (), unit: str = "image") -> Identities:
    return Identities(frozenset(images), frozenset(subject.encode() for subject in subjects), unit)


def test_images_and_subjects_stand_side_by_side_whatever_the_unit(ledger: Ledger) -> None:
    """A change of unit resets nothing, doubles nothing and is no swap; nor is a column of subjects that comes or goes."""
    reserve(ledger)
    truth = ledger.spent("chest").history
    assert vars(ledger.add_records("chest", known(units(4)))) == {"known": 0, "new": 4, "missing": 0}
    assert vars(ledger.add_records("chest", known(units(4), ("p1", "p2")))) == {"known": 4, "new": 2, "missing": 0}
    for unit in ("subject", "image", "subject"):
        assert vars(ledger.add_records("chest", known(units(4), ("p1", "p2"), unit))) == {"known": 6, "new": 0, "missing": 0}
    assert vars(ledger.add_records("chest", known(units(4)))) == {"known": 4, "new": 0, "missing": 2}
    assert ledger.spent("chest").history == truth
    assert [row.body["kinds"] for row in ledger.rows() if row.kind == "records"] == [{"image": 4}, {"subject": 2}]


def test_a_subject_who_gains_scans_or_has_all_of_them_replaced_is_the_same_subject(ledger: Ledger) -> None:
    ledger.add_records("chest", known(units(4), ("p1", "p2"), "subject"))
    assert vars(ledger.add_records("chest", known(units(5), ("p1", "p2"), "subject"))) == {"known": 6, "new": 1, "missing": 0}
    assert vars(ledger.add_records("chest", known(units(50, 52), ("p1",), "subject"))) == {"known": 1, "new": 2, "missing": 6}
    with pytest.raises(SwappedDataError):
        ledger.add_records("chest", known(units(90, 95), ("p9",), "subject"))


def test_an_image_and_a_subject_of_the_same_bytes_are_two_things(ledger: Ledger) -> None:
    ledger.add_records("chest", known([b"p1"]))
    with pytest.raises(SwappedDataError):
        ledger.add_records("chest", known([b"other"], ("p1",)))


@pytest.mark.parametrize(
    ("first", "second", "refused"), [("image", "image", False), ("image", "subject", True), ("subject", "image", True)]
)
def test_a_subject_counts_under_one_name_alone_once_it_is_the_unit(tmp_path: Path, first: str, second: str, refused: bool) -> None:
    """Ids such as 1, 2, 3 may be other people's: by image they say nothing, by subject the owner has to tell them apart."""
    ledger = Ledger.create(tmp_path / "l")
    ledger.add_records("chest", known(units(4), ("p1", "p2"), first))
    ledger.begin_run("chest", "run", PlannedRun({"unit": first}, "c", {}, "end-to-end"), lambda spent: "shared")
    hip = known(units(10, 14), ("p2", "p3"), second)
    if refused:
        with pytest.raises(SharedRecordsError, match="make the ids differ"):
            ledger.compare("hip", hip)
        with pytest.raises(SharedRecordsError, match="subjects of 'hip' were charged as 'chest'"):
            ledger.add_records("hip", hip)
    else:
        assert ledger.add_records("hip", hip).new == 6
    with pytest.raises(SharedRecordsError, match="images of 'leg' were charged as 'chest'"):  # an image always counts
        ledger.add_records("leg", known(units(3, 9), (), second))


def test_comparing_writes_nothing_and_says_the_same(ledger: Ledger) -> None:
    ledger.add_records("chest", known(units(4)))
    before = ledger.files.database.read_bytes()
    assert ledger.compare("chest", known(units(2, 6))) == ledger.compare("chest", known(units(2, 6)))
    with pytest.raises(SwappedDataError):
        ledger.compare("chest", known(units(100, 103)))
    assert ledger.files.database.read_bytes() == before
    assert vars(ledger.add_records("chest", known(units(2, 6)))) == {"known": 2, "new": 2, "missing": 2}


def as_version_0_1(ledger: Ledger, dataset: str, pixels: list[bytes]) -> None:
    """Put records down as commit 984c90f did."""
    with ledger._store.transaction() as change:
        macs = frozenset(hmac.digest(change.key, b"record " + hashlib.sha256(unit).digest(), "sha256") for unit in pixels)
        digest = hashlib.sha256(b"".join(sorted(macs))).hexdigest()
        change.append(dataset, "records", "", 0, {"added": len(macs), "sha256": digest}, macs)


def test_records_of_version_0_1_overlap_and_never_refuse_their_owner(ledger: Ledger) -> None:
    as_version_0_1(ledger, "chest", [b"pixels at a size that nobody knows"])
    reserve(ledger)
    assert vars(ledger.add_records("chest", known(units(4)))) == {"known": 1, "new": 4, "missing": 0}
    assert ledger.add_records("chest", known(units(100, 104))).new == 4  # what was there before cannot be told
    assert sum(ledger.spent("chest").history.values()) == 12
    assert ledger.verify() == 6


def test_a_new_name_for_what_version_0_1_recorded_is_an_alias(ledger: Ledger) -> None:
    as_version_0_1(ledger, "chest", [b"pixels 1", b"pixels 2"])
    renamed = Identities(frozenset(units(2)), earlier=lambda: [b"pixels 2", b"pixels 3"])
    with pytest.raises(SharedRecordsError, match="charged as 'chest'"):
        ledger.add_records("fresh", renamed)
    assert ledger.add_records("hip", Identities(frozenset(units(50, 52)), earlier=lambda: [b"pixels 9"])).new == 2


def test_pixels_are_asked_for_only_where_version_0_1_left_some(ledger: Ledger) -> None:
    def never() -> list[bytes]:
        raise AssertionError

    assert ledger.add_records("chest", Identities(frozenset(units(4)), earlier=never)).new == 4


@given(
    st.lists(st.tuples(st.sets(st.integers(0, 9), max_size=6), st.sets(st.integers(0, 4), max_size=3), st.booleans()), max_size=8)
)
@settings(max_examples=25, deadline=None)
def test_what_is_on_record_only_grows_and_a_swap_is_what_shares_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list
) -> None:
    ledger, model = Ledger.create(tmp_path_factory.mktemp("l") / "l"), set()
    for images, subjects, by_subject in steps:
        data = known([b"%d" % i for i in images], tuple(map(str, subjects)), "subject" if by_subject else "image")
        now = {("image", i) for i in images} | {("subject", i) for i in subjects}
        if model and now and not model & now:
            with pytest.raises(SwappedDataError):
                ledger.add_records("chest", data)
            continue
        overlap = ledger.add_records("chest", data)
        assert (overlap.known, overlap.new, overlap.missing) == (len(model & now), len(now - model), len(model - now))
        model |= now
    ledger.verify()


def test_record_hmacs_hide_the_records_and_their_loss_is_found(ledger: Ledger) -> None:
    ledger.add_records("chest", units(3))
    raw = ledger.files.database.read_bytes()
    assert hashlib.sha256(b"image 0").digest() not in raw
    assert b"image 0" not in raw
    db = sqlite3.connect(ledger.files.database, isolation_level=None)
    db.execute("DELETE FROM records WHERE mac = (SELECT min(mac) FROM records)")
    db.close()
    for use in (ledger.verify, lambda: Ledger(ledger.files.database).spent("chest")):
        with pytest.raises(EditedRowError, match="records of row 3"):
            use()
