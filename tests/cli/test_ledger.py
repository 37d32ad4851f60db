"""What ``mpssl-fed ledger`` tells, checks and restores; commands that read write nothing."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from mpssl_fed.cli.ledger import app, gap_history
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.accounting import epsilon, merge
from mpssl_fed.privacy.filter import RenyiFilter, rounded_up
from mpssl_fed.privacy.ledger import Ledger, PlannedRun
from mpssl_fed.privacy.ledger_files import LedgerWriteError

ROUND = {(1.5, 0.02): 12}


def call(*words: object, catch: bool = True) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=catch)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.create(tmp_path / "site.sqlite")
    plan = {key: 10 * n for key, n in ROUND.items()}
    ledger.begin_run("digits", "run-1", PlannedRun({"rounds": 10}, "c", plan, "end-to-end"), lambda spent: "shared")
    ledger.add_records("digits", [b"one", b"two"])
    for number in (1, 2):
        ledger.reserve("digits", "run-1", number, ROUND, lambda spent: None)
    return ledger


def test_show_tells_epsilon_runs_and_what_the_life_has_spent(ledger: Ledger) -> None:
    path, policy = ledger.files.database, "configs/policies/site.yaml"
    history = {key: 2 * n for key, n in ROUND.items()}
    limit = RenyiFilter(4, 1e-5)  # the policy's
    text = call("ledger", "show", path, "--policy", policy).output
    number = rounded_up(limit.epsilon(history))
    assert f"epsilon {number} of 4 spent over its life, per image, at delta 1e-05; {4 - float(number):.3f} left" in text
    assert "24 releases, 20" in text
    assert "sigma 1.5, q 0.02: 24 times" in text
    assert "run run-1 (end-to-end, shared), 2 rounds, 20" in text
    assert f"epsilon {rounded_up(epsilon(history, 1e-5))} of" in text
    told = json.loads(call("ledger", "show", path, "--policy", policy, "--json").output)["data_sets"][0]
    assert told["epsilon"] == told["epsilon_lifetime"] == limit.epsilon(history)
    assert (told["delta"], told["unit"], told["releases"], told["max_epsilon"]) == (1e-5, "image", 24, 4)
    assert told["remaining"] == 4 - told["epsilon"]
    assert merge(told["history"]) == history
    ledger.mark_unaccounted("digits", "x", "scope off")
    text = call("ledger", "show", path).output
    assert "epsilon infinite (accounted part" in text
    assert "unaccounted: run 'x': scope off" in text
    assert json.loads(call("ledger", "show", path, "--json").output)["data_sets"][0]["epsilon"] is None


def test_without_a_policy_show_never_tells_less_than_was_spent(ledger: Ledger) -> None:
    """Neither the price of all releases at once, which later runs may not go by, nor another delta, nor a number rounded down."""
    history = {key: 2 * n for key, n in ROUND.items()}
    text = call("ledger", "show", ledger.files.database).output
    told = json.loads(call("ledger", "show", ledger.files.database, "--json").output)["data_sets"][0]
    assert "--policy tells what is left" in text
    assert float(text.split(" at most spent")[0].split()[-1]) >= told["epsilon"]
    assert told["epsilon"] > epsilon(history, 1e-5)
    assert all(told["epsilon"] >= RenyiFilter(most, 1e-5).epsilon(history) for most in (0.1, 1, 4, 20, 200))
    strict = json.loads(call("ledger", "show", ledger.files.database, "--json", "--delta", "1e-9").output)["data_sets"][0]
    assert strict["epsilon"] > told["epsilon"]
    with pytest.raises(UserError, match="--delta 2"):
        call("ledger", "show", ledger.files.database, "--delta", "2", catch=False)


def test_the_limit_that_runs_put_down_tells_what_is_left_and_at_which_delta(tmp_path: Path) -> None:
    ledger, plan = Ledger.create(tmp_path / "l"), {"delta": 1e-7, "unit": "subject"}
    for run, limit in (("a", {"max_epsilon": 3.0, "delta": 1e-6}), ("b", {"max_epsilon": 3.0, "delta": 1e-6})):
        ledger.begin_run("d", run, PlannedRun(plan, "c", ROUND, "end-to-end"), lambda spent: "shared", limit=limit)
        ledger.reserve("d", run, 1, ROUND, lambda spent: None)
    told = json.loads(call("ledger", "show", tmp_path / "l", "--json").output)["data_sets"][0]
    assert told["epsilon"] == RenyiFilter(3, 1e-6).epsilon({(1.5, 0.02): 24})
    assert (told["delta"], told["max_epsilon"], told["unit"]) == (1e-6, 3, "subject")
    assert {run["delta"] for run in told["runs"]} == {1e-7}
    ledger.begin_run(
        "d", "c", PlannedRun(plan, "c", {}, "end-to-end"), lambda s: "shared", limit={"max_epsilon": 9, "delta": 1e-6}
    )  # the owner's policy has changed: no one limit is known any more
    other = json.loads(call("ledger", "show", tmp_path / "l", "--json").output)["data_sets"][0]
    assert "max_epsilon" not in other
    assert other["epsilon"] >= max(told["epsilon"], RenyiFilter(9, 1e-6).epsilon({(1.5, 0.02): 24}))


def test_a_simulated_ledger_gives_no_number_over_runs(tmp_path: Path) -> None:
    simulated = Ledger.create(tmp_path / "s", simulated=True)
    assert "simulated: runs do not compose" in call("ledger", "show", tmp_path / "s").output
    simulated.begin_run("d", "r", PlannedRun({}, "c", ROUND, "end-to-end"), lambda spent: "shared")
    simulated.reserve("d", "r", 1, ROUND, lambda spent: None)
    text = call("ledger", "show", tmp_path / "s").output
    assert "d: by run" in text
    assert "run r (end-to-end, shared), 1 round, 20" in text
    assert "epsilon 0.274 of 0.274 planned" in text


def test_verify_names_the_error(ledger: Ledger) -> None:
    assert "5 rows, chain and head agree" in call("ledger", "verify", ledger.files.database).output
    ledger.files.head.unlink()
    assert "head is gone" in str(call("ledger", "verify", ledger.files.database).exception)


def test_export_leaves_out_how_many_records_there_are(ledger: Ledger, tmp_path: Path) -> None:
    rows = json.loads(call("ledger", "export", ledger.files.database).output)
    assert [row["kind"] for row in rows] == ["created", "run", "records", "reserve", "reserve"]
    assert rows[2]["body"] == {}
    assert rows[3]["body"]["releases"] == [[1.5, 0.02, 12]]
    out = tmp_path / "out.json"
    assert call("ledger", "export", ledger.files.database, "--out", out).exit_code == 0
    assert json.loads(out.read_text()) == rows
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_restore_books_the_gap(ledger: Ledger, tmp_path: Path) -> None:
    path = ledger.files.database
    shutil.copy(path, tmp_path / "backup")
    ledger.reserve("digits", "run-1", 3, ROUND, lambda spent: None)
    path.unlink()
    assert "no such ledger" in str(call("ledger", "verify", path).exception)
    result = call("ledger", "restore", path, "--backup", tmp_path / "backup", "--gap", "1.5:0.02:12")
    assert result.exception is None, result.output
    assert "1 rows were missing" in result.output
    assert ledger.spent("digits").history == {(1.5, 0.02): 36}
    assert call("ledger", "verify", path).exit_code == 0
    call("ledger", "restore", path, "--gap", "unknown", "--note", "disk replaced")
    assert ledger.spent("digits").unaccounted


def test_the_words_of_a_gap() -> None:
    assert gap_history(["unknown"]) is None
    assert gap_history(["none"]) == {}
    assert gap_history(["1.5:0.02:3", "1.5:0.02:4", "6:1:1"]) == {(1.5, 0.02): 7, (6.0, 1.0): 1}
    for word in ("1.5", "a:b:c", "0:0.1:1", "1:2:1", "1:0.1:1.5", "1:0.1:-3", "nan:0.1:1", "inf:0.1:1", "1:0.1:nan"):
        with pytest.raises(UserError, match="--gap"):
            gap_history([word])
    with pytest.raises(UserError, match="alone"):
        gap_history(["unknown", "1:1:1"])


def sites_of(run: Path, *names: str) -> list[Ledger]:
    """Make the ledgers of a run's simulated sites, one release a site."""
    ledgers = []
    for name in names:
        ledger = Ledger.create(run / "sites" / name / "ledger.sqlite", simulated=True)
        ledger.begin_run("d", "r", PlannedRun({}, "c", ROUND, "end-to-end"), lambda spent: "shared")
        ledger.reserve("d", "r", 1, ROUND, lambda spent: None)
        ledgers.append(ledger)
    return ledgers


def test_a_run_directory_shows_all_its_sites_in_order(tmp_path: Path) -> None:
    sites_of(tmp_path / "run", "10", "9")
    lines = call("ledger", "show", tmp_path / "run").output.splitlines()
    assert [line for line in lines if line.startswith("site ")] == ["site 9", "site 10"]
    assert lines[1] == "simulated: runs do not compose"
    told = json.loads(call("ledger", "show", tmp_path / "run", "--json").output)
    assert list(told["sites"]) == ["9", "10"]
    assert told["sites"]["9"]["data_sets"][0]["epsilon"] is None
    assert call("ledger", "verify", tmp_path / "run").output.count("3 rows, chain and head agree") == 2
    assert call("ledger", "show", tmp_path / "run" / "sites" / "9").output.splitlines() == lines[1 : len(lines) // 2]


def test_folders_without_a_ledger_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    sites_of(tmp_path / "study" / "cells" / "abc", "0")
    for folder, words in (
        (tmp_path / "run", "a run without privacy keeps none"),
        (tmp_path / "study", "name one of its runs, for"),
    ):
        with pytest.raises(UserError, match=words):
            call("ledger", "show", folder, catch=False)
    sites_of(tmp_path / "two", "0", "1")
    with pytest.raises(UserError, match="holds 2 ledgers"):
        call("ledger", "verify", tmp_path / "two", "--head", tmp_path / "head", catch=False)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return name -> (time of change, bytes) of all in a folder."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("command", ["show", "verify", "export"])
def test_commands_that_read_write_nothing(tmp_path: Path, ledger: Ledger, command: str) -> None:
    (tmp_path / "text.txt").write_text("no ledger")
    (tmp_path / "empty").touch()
    ledger.files.lock_file.unlink()  # as in a copy of the three files that count
    before, folders = contents(tmp_path), sorted(tmp_path.iterdir())
    assert call("ledger", command, ledger.files.database, catch=False).exit_code == 0
    for name, words in (("text.txt", "is no ledger"), ("empty", "is no ledger"), ("missing", "no such ledger")):
        with pytest.raises(UserError, match=words):
            call("ledger", command, tmp_path / name, catch=False)
    assert (contents(tmp_path), sorted(tmp_path.iterdir())) == (before, folders)


@pytest.mark.parametrize("words", [("restore", "--gap", "none"), ("accept", "digits"), ("move-head", "head")])
def test_commands_that_write_leave_nothing_beside_what_is_no_ledger(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "text.txt").write_text("no ledger")
    for name in ("text.txt", "missing", "n" * 300):
        with pytest.raises(UserError):
            call("ledger", words[0], tmp_path / name, *words[1:], catch=False)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_ledger_on_read_only_media_is_read_lock_or_no_lock(tmp_path: Path, ledger: Ledger) -> None:
    """As root a folder's mode forbids nothing, so a real read-only file system is tried where mounting is permitted."""
    media = tmp_path / "media"
    media.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(media)], check=False).returncode
    try:
        for part in (ledger.files.database, ledger.files.key, ledger.files.head, ledger.files.lock_file):
            shutil.copy2(part, media)
        for lock in (True, False):
            if not lock:
                _remount(media, mounted, read_only=False)
                (media / ledger.files.lock_file.name).unlink()
            _remount(media, mounted, read_only=True)
            assert "5 rows" in call("ledger", "verify", media / "site.sqlite", catch=False).output
            assert "24 releases" in call("ledger", "show", media / "site.sqlite", catch=False).output
        with pytest.raises(LedgerWriteError):
            Ledger(media / "site.sqlite").reserve("digits", "run-1", 3, ROUND, lambda spent: None)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(media)], check=True)
        else:
            media.chmod(0o700)


def _remount(folder: Path, mounted: bool, read_only: bool) -> None:
    if mounted:
        subprocess.run(["mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(folder)], check=True)
    else:
        folder.chmod(0o500 if read_only else 0o700)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    for name in ("a?b", "50% off", "x#1", "mode=rw&", "ü und é"):
        path = tmp_path / name / "ledger.sqlite"
        Ledger.create(path)
        shutil.copy(path, tmp_path / name / "backup?")
        assert "1 rows" in call("ledger", "verify", path, catch=False).output
        assert call("ledger", "restore", path, "--backup", tmp_path / name / "backup?", "--gap", "none", catch=False).exit_code == 0
        assert "2 rows" in call("ledger", "verify", path.parent, catch=False).output


def test_new_files_for_old_images_are_accepted_by_the_owner_and_cost_what_the_old_ones_did(ledger: Ledger) -> None:
    spent = ledger.spent("digits").history
    with pytest.raises(UserError, match="ledger accept LEDGER digits"):
        ledger.add_records("digits", [b"one in another format"])
    with pytest.raises(UserError, match="it holds digits"):
        call("ledger", "accept", ledger.files.database, "letters", catch=False)
    assert "count as those on record" in call("ledger", "accept", ledger.files.database, "digits", catch=False).output
    ledger.add_records("digits", [b"one in another format"])
    with pytest.raises(UserError, match="ledger accept"):  # once only
        ledger.add_records("digits", [b"something else"])
    assert ledger.spent("digits").history == spent


def test_the_head_is_moved_by_a_command(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with pytest.raises(UserError, match="mount its disk"):
        call("ledger", "move-head", ledger.files.database, tmp_path / "not mounted" / "head", catch=False)
    said = call("ledger", "move-head", ledger.files.database, tmp_path / "disk" / "head", catch=False).output
    assert f"--ledger-head {tmp_path / 'disk' / 'head'}" in said
    assert f"the head is {tmp_path / 'disk' / 'head'}" in call("ledger", "verify", ledger.files.database, catch=False).output
