from __future__ import annotations

import shutil
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.privacy.ledger import Ledger, PlannedRun, Spent
from mpssl_fed.privacy.ledger_files import (
    CutTailError,
    DeletedRowError,
    EditedRowError,
    ExposedKeyError,
    LedgerError,
    MissingLedgerError,
    OutsidePlanError,
    RolledBackError,
    WrongHeadError,
)

ROUND = {(1.5, 0.02): 12, (6.0, 0.02): 2}
PLAN = {key: 1000 * n for key, n in ROUND.items()}


def begin(ledger: Ledger, run: str = "run", dataset: str = "chest", history: dict = PLAN, scope: str = "end-to-end") -> str:
    return ledger.begin_run(dataset, run, PlannedRun({"rounds": 1000}, f"plan of {run}", history, scope), lambda spent: "shared")


def accept(spent: Spent) -> None:
    pass


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.create(tmp_path / "site.sqlite")
    begin(ledger)
    return ledger


def reserve(ledger: Ledger, *numbers: int, run: str = "run", dataset: str = "chest") -> None:
    for number in numbers:
        ledger.reserve(dataset, run, number, ROUND, accept)


def edit(ledger: Ledger, *statements: str) -> None:
    """Change the file behind the ledger's back, its triggers removed and put back."""
    db = sqlite3.connect(ledger.files.database)
    triggers = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'")]
    db.executescript("DROP TRIGGER no_update; DROP TRIGGER no_delete;" + ";".join((*statements, *triggers)))
    db.close()


def test_what_is_reserved_is_spent_merged_by_kind_and_never_refunded(ledger: Ledger) -> None:
    reserve(ledger, 1, 2, 2, 3)
    spent = Ledger(ledger.files.database).spent("chest")
    assert spent.history == {key: 4 * n for key, n in ROUND.items()}
    assert spent.runs["run"].reserved == spent.history
    assert spent.runs["run"].planned == PLAN
    assert not spent.unaccounted
    assert ledger.spent("another").history == {}
    assert ledger.verify() == 6
    assert [row.kind for row in ledger.rows()] == ["created", "run", *["reserve"] * 4]


def test_spending_outlives_runs_and_the_judge_sees_all_of_it_inside_the_transaction(ledger: Ledger) -> None:
    reserve(ledger, 1)
    begin(ledger, "later")
    seen = []
    ledger.reserve("chest", "later", 1, ROUND, lambda spent: seen.append(spent.history))
    assert seen == [ROUND]

    def refuse(spent: Spent) -> None:
        raise RuntimeError("no budget")

    with pytest.raises(RuntimeError, match="no budget"):
        ledger.reserve("chest", "later", 2, ROUND, refuse)
    assert ledger.spent("chest").history == {key: 2 * n for key, n in ROUND.items()}
    assert ledger.verify() == 5


def test_a_run_keeps_to_the_plan_of_its_first_row(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "site.sqlite")
    with pytest.raises(OutsidePlanError, match="no plan"):
        reserve(ledger, 1)
    assert begin(ledger, history={key: 2 * n for key, n in ROUND.items()}) == "shared"
    assert begin(ledger, history={}) == "shared"  # resumed: the same commitment, the first row stands
    with pytest.raises(OutsidePlanError, match="start a new run"):
        ledger.begin_run("chest", "run", PlannedRun({}, "other", {}, "end-to-end"), lambda s: "shared")
    reserve(ledger, 1)
    with pytest.raises(OutsidePlanError, match="sigma=1"):
        ledger.reserve("chest", "run", 2, {(1.0, 0.02): 1}, accept)
    with pytest.raises(OutsidePlanError, match="13 releases"):
        ledger.reserve("chest", "run", 2, {(1.5, 0.02): 13}, accept)
    reserve(ledger, 2)
    with pytest.raises(OutsidePlanError, match="0 left"):
        reserve(ledger, 3)
    assert ledger.verify() == 4


@pytest.mark.parametrize("scope", ["labelled-step", "off"])
def test_a_scope_that_does_not_cover_every_read_taints_the_data_set_first(ledger: Ledger, scope: str) -> None:
    begin(ledger, "loose", scope=scope)
    begin(ledger, "loose", scope=scope)
    assert [row.kind for row in ledger.rows()][-2:] == ["unaccounted", "run"]
    spent = ledger.spent("chest")
    assert spent.unaccounted
    assert spent.reasons == [f"run 'loose': scope {scope}"]
    assert not ledger.spent("hip").unaccounted


def test_a_refused_loose_run_has_still_tainted_the_data_set(ledger: Ledger) -> None:
    def refuse(spent: Spent) -> str:
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError):
        ledger.begin_run("chest", "x", PlannedRun({}, "c", {}, "off"), refuse)
    assert ledger.spent("chest").unaccounted


def test_only_the_owner_can_read_the_files(ledger: Ledger) -> None:
    reserve(ledger, 1)
    for path in (ledger.files.database, ledger.files.key, ledger.files.head, ledger.files.lock_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    ledger.files.key.chmod(0o640)
    with pytest.raises(ExposedKeyError, match="0640"):
        reserve(ledger, 2)


def test_rows_cannot_be_updated_or_deleted_by_accident(ledger: Ledger) -> None:
    db = sqlite3.connect(ledger.files.database)
    for statement in ("UPDATE rows SET round = 7", "DELETE FROM rows"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    db.close()


@pytest.mark.parametrize(
    "column", ["body = replace(body, '12', '11')", "time = '2020'", "run = 'x'", "round = 9", "mac = x'00'", "dataset = x'ff'"]
)
def test_an_edited_row_is_found(ledger: Ledger, column: str) -> None:
    reserve(ledger, 1, 2, 3)
    edit(ledger, f"UPDATE rows SET {column} WHERE seq = 4")
    for use in (ledger.verify, lambda: reserve(ledger, 4), lambda: ledger.spent("chest")):
        with pytest.raises(EditedRowError, match=r"row 4|damaged"):
            use()


def test_any_edited_byte_of_the_file_is_found_or_changes_nothing(ledger: Ledger) -> None:
    reserve(ledger, *range(1, 8))
    truth = ledger.spent("chest")
    path = ledger.files.database
    original = path.read_bytes()
    found = 0
    for position in range(0, len(original), 97):
        path.write_bytes(original[:position] + bytes([original[position] ^ 0x55]) + original[position + 1 :])
        try:
            ledger.verify()
            assert ledger.spent("chest") == truth
        except LedgerError:
            found += 1
        path.with_name(path.name + "-journal").unlink(missing_ok=True)
    assert found > 10
    path.write_bytes(original)
    assert ledger.verify() == 9


def test_a_deleted_row_is_found(ledger: Ledger) -> None:
    reserve(ledger, 1, 2, 3)
    edit(ledger, "DELETE FROM rows WHERE seq = 4")
    with pytest.raises(DeletedRowError, match="row 5"):
        ledger.verify()


@pytest.mark.parametrize("cut", [1, 2])
def test_a_cut_tail_is_found_even_of_one_row(ledger: Ledger, cut: int) -> None:
    reserve(ledger, 1, 2, 3)
    edit(ledger, f"DELETE FROM rows WHERE seq > {5 - cut}")
    with pytest.raises(CutTailError, match="was written up to 5"):
        ledger.verify()


@pytest.mark.parametrize("rounds_since", [1, 4])
def test_yesterdays_copy_put_back_is_found_even_one_row_old(ledger: Ledger, tmp_path: Path, rounds_since: int) -> None:
    reserve(ledger, 1)
    shutil.copy(ledger.files.database, tmp_path / "yesterday")
    reserve(ledger, *range(2, 2 + rounds_since))
    shutil.copy(tmp_path / "yesterday", ledger.files.database)
    for use in (ledger.verify, lambda: reserve(ledger, 9)):
        with pytest.raises(RolledBackError, match="has 3 rows"):
            use()


def test_a_head_one_row_behind_is_an_unfinished_reservation_that_counts(ledger: Ledger) -> None:
    reserve(ledger, 1)
    before = ledger.files.head.read_bytes()
    reserve(ledger, 2)
    ledger.files.head.write_bytes(before)  # as if the process had died between commit and head
    assert ledger.spent("chest").history == {key: 2 * n for key, n in ROUND.items()}
    ledger.verify()
    reserve(ledger, 3)
    assert ledger.verify() == 5
    ledger.files.head.write_bytes(before)
    with pytest.raises(WrongHeadError, match="at row 3 of 5"):
        reserve(ledger, 4)


def test_lost_and_foreign_parts_are_named(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger.create(tmp_path / "other.sqlite")
    begin(other)
    shutil.copy(other.files.head, ledger.files.head)
    with pytest.raises(WrongHeadError, match="key"):
        ledger.verify()
    ledger.files.head.write_text("{}")
    with pytest.raises(WrongHeadError, match="damaged"):
        ledger.verify()
    ledger.files.head.unlink()
    with pytest.raises(MissingLedgerError, match="head is gone"):
        reserve(ledger, 1)
    ledger.files.key.unlink()
    with pytest.raises(MissingLedgerError, match="key is gone"):
        ledger.verify()
    with pytest.raises(LedgerError, match="exists already"):
        Ledger.create(ledger.files.database)
    ledger.files.database.unlink()
    with pytest.raises(MissingLedgerError, match="no such ledger"):
        ledger.verify()
    assert not ledger.files.database.exists()
    with pytest.raises(MissingLedgerError):
        Ledger(tmp_path / "never").spent("chest")
    assert not list(tmp_path.glob("never*"))


def test_a_restored_backup_is_used_after_the_owner_books_the_gap(ledger: Ledger, tmp_path: Path) -> None:
    reserve(ledger, 1)
    shutil.copy(ledger.files.database, tmp_path / "yesterday")
    reserve(ledger, 2, 3)
    truth = ledger.spent("chest").history
    ledger.files.database.write_bytes(b"a broken disk")
    with pytest.raises(EditedRowError):
        ledger.verify()
    row = ledger.book_gap({key: 2 * n for key, n in ROUND.items()}, tmp_path / "yesterday")
    assert (row.body["from"], row.body["to"], row.seq) == (3, 5, 6)
    assert ledger.spent("chest").history == truth
    assert ledger.spent("hip").history == row_history(row.body["releases"])  # every data set of the ledger is charged
    reserve(ledger, 4)
    assert ledger.verify() == 5
    shutil.copy(tmp_path / "yesterday", ledger.files.database)
    with pytest.raises(RolledBackError):
        ledger.verify()


def row_history(releases: list) -> dict:
    return {(sigma, q): n for sigma, q, n in releases}


def test_an_unknown_gap_makes_epsilon_infinite(ledger: Ledger) -> None:
    reserve(ledger, 1, 2)
    ledger.files.head.unlink()
    ledger.book_gap(None)
    assert ledger.spent("chest").unaccounted
    assert ledger.spent("hip").unaccounted
    assert ledger.verify() == 5


def test_a_backup_of_another_ledger_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger.create(tmp_path / "other.sqlite")
    with pytest.raises(EditedRowError, match="row 1"):
        ledger.book_gap({}, other.files.database)
    (tmp_path / "text").write_text("no ledger " * 100)
    with pytest.raises(EditedRowError, match="not a database"):
        ledger.book_gap({}, tmp_path / "text")
    with pytest.raises(LedgerError, match="no such backup"):
        ledger.book_gap({}, tmp_path / "none")


def test_a_clock_set_back_changes_nothing(tmp_path: Path) -> None:
    now = [datetime(2026, 5, 1, tzinfo=UTC)]
    Ledger.create(tmp_path / "l")
    ledger = Ledger(tmp_path / "l", clock=lambda: now[0])
    begin(ledger)
    for number in range(1, 4):
        now[0] -= timedelta(days=400)
        reserve(ledger, number)
    assert ledger.verify() == 5
    assert [row.seq for row in ledger.rows()] == [1, 2, 3, 4, 5]
    assert ledger.spent("chest").history == {key: 3 * n for key, n in ROUND.items()}


def test_a_simulated_ledger_says_so(tmp_path: Path) -> None:
    assert Ledger.create(tmp_path / "s", simulated=True).simulated
    assert not Ledger.create(tmp_path / "d").simulated
    assert b"simulated: runs do not compose" in (tmp_path / "s").read_bytes()


def test_the_head_may_live_in_another_folder(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "a" / "l", head=tmp_path / "b" / "head")
    begin(ledger)
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    reserve(ledger, 1)
    shutil.rmtree(tmp_path / "a")
    shutil.move(tmp_path / "copy", tmp_path / "a")  # the whole folder of yesterday, key and all
    with pytest.raises(RolledBackError):
        ledger.verify()


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([0.7, 1.5]), st.integers(1, 9)), max_size=6))
@settings(max_examples=15, deadline=None)
def test_spending_is_the_sum_of_what_was_reserved(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    ledger = Ledger.create(tmp_path_factory.mktemp("l") / "l")
    expected: dict = {"a": {}, "b": {}}
    for dataset in expected:
        begin(ledger, dataset=dataset, run=dataset, history={(0.7, 0.1): 99, (1.5, 0.1): 99})
    for dataset, sigma, n in steps:
        ledger.reserve(dataset, dataset, 1, {(sigma, 0.1): n}, accept)
        expected[dataset][sigma, 0.1] = expected[dataset].get((sigma, 0.1), 0) + n
    assert {name: ledger.spent(name).history for name in expected} == expected
