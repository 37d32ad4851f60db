"""Every command ends: with its result, with one message and status 2, or, where it is our fault, with a traceback that says so."""

from __future__ import annotations

import errno
import io
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mpssl_fed.cli import ending, main
from mpssl_fed.errors import UserError
from mpssl_fed.files import refuse_special
from tests.cli.calls import Caller
from tests.cli.conftest import PHOTOS
from tests.fuzz.ended import in_time
from tests.patience import PATIENCE_S

PROGRAM = [sys.executable, "-m", "mpssl_fed.cli"]
LONG = "x" * 300
OWN = ("data.name=image-folder",)


@pytest.mark.parametrize("place", ["file/x", LONG, "/proc/x", "loop/x", "/dev/null/x"])
def test_a_place_that_cannot_be_written_is_named(place: str, call: Caller, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    for words in (
        ("simulate", "demo", f"data.root={photos}", *PHOTOS, "--output", place),
        ("data", "demo", f"data.root={photos}", *PHOTOS, "--plot", place),
        ("generate", "--per-class", "1", "--classes", "A", "--out", f"{place}/x.png"),
        ("certs", "ca", place),
        ("certs", "site", place, "--name", "a"),
        ("study", "demo", "method.name=base", "--output", place),
    ):
        message = call.refused(*words)
        assert place[:100] in message, (words, message)


def test_a_place_that_cannot_be_read_is_named(call: Caller, tmp_path: Path) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    for words in (
        ("data", folder), ("data", LONG), ("data", ""), ("data", "."), ("data", "/"), ("study", "/"), ("study", ""),
        ("study", folder), ("predict", LONG, "x.png"), ("predict", tmp_path, "x.png"), ("evaluate", tmp_path, tmp_path),
        ("export", tmp_path), ("report", tmp_path), ("report", tmp_path / LONG), ("audit", tmp_path),
        ("ledger", "restore", "", "--gap", "none"), ("ledger", "accept", ".", "a"), ("ledger", "move-head", "/", folder),
        ("ledger", "export", "."), ("ledger", "show", tmp_path / LONG), ("ledger", "show", folder), ("ledger", "verify", folder),
        ("policy", "check", folder, "demo"), ("policy", "check", LONG, "demo"),
        ("data", "demo", *OWN, f"data.root={LONG}"), ("data", "demo", *OWN, "data.root=~nosuch/x"),
        ("generate", "--generator", "biggan", "--path", LONG), ("generate", "--generator", "exported", "--path", folder),
        ("study", "demo", "--from", folder, "--output", tmp_path / "out"),
    ):  # fmt: skip
        call.refused(*words)


def test_a_pipe_that_nobody_writes_is_not_waited_for(call: Caller, finished_run: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    authority = tmp_path / "ca"
    authority.mkdir()
    os.mkfifo(authority / "ca.key")
    for words in (
        ("policy", "check", pipe, "demo"), ("policy", "check", "policies/site", pipe), ("data", pipe),
        ("study", pipe, "--dry-run"), ("ledger", "show", finished_run, "--policy", pipe), ("predict", finished_run, pipe),
        ("predict", pipe, pipe), ("generate", "--generator", "exported", "--path", pipe),
        ("simulate", pipe), ("certs", "server", authority, "localhost"), ("ledger", "show", pipe), ("ledger", "verify", pipe),
        ("study", "demo", "--from", pipe, "--output", tmp_path / "out"),
    ):  # fmt: skip
        with in_time():
            call.refused(*words)


@pytest.mark.parametrize("kind", ["device", "FIFO", "link to a device", "folder"])
def test_what_is_no_file_is_not_replaced_by_one(kind: str, call: Caller, finished_run: Path, tmp_path: Path) -> None:
    place = tmp_path / "place.pt2"
    if kind == "device":
        try:
            os.mknod(place, 0o20666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("the right to make a device")
    elif kind == "FIFO":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/null")
    before = place.lstat()
    ledger = finished_run / "sites" / "0" / "ledger.sqlite"
    for words in (
        ("generate", "--per-class", "1", "--classes", "A", "--out", place),
        ("export", finished_run, "--format", "torch-export", "--overwrite", "--out", place),
        *([("ledger", "export", ledger, "--out", place)] if ledger.exists() else []),
    ):
        with in_time():
            assert str(place) in call.refused(*words)
    after = place.lstat()
    assert (before.st_mode, before.st_ino, before.st_rdev) == (after.st_mode, after.st_ino, after.st_rdev)
    with pytest.raises(OSError, match="link of the system"):
        refuse_special(Path("/dev/stdout"))


@pytest.mark.parametrize("kind", ["manifest.json", "config.yaml", "metrics.jsonl", "model.safetensors", "labels.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other", "bytes"])
def test_a_damaged_file_of_a_run_is_named(kind: str, damage: str, call: Caller, finished_run: Path, photos: Path) -> None:
    file = finished_run / kind
    whole = file.read_bytes()
    try:
        file.write_bytes(
            {"cut": whole[: len(whole) * 2 // 3], "empty": b"", "other": b"[1, 2]\n", "bytes": b"\xff\xfe\x00\x80"}[damage]
        )
        reading = {
            "manifest.json": [("report", finished_run), ("audit", finished_run)],
            "config.yaml": [("report", finished_run), ("audit", finished_run)],
            "metrics.jsonl": [("report", finished_run)],
            "model.safetensors": [("predict", finished_run, photos), ("export", finished_run), ("evaluate", finished_run, photos)],
            "labels.json": [("report", finished_run)],
        }[kind]
        for words in reading:
            if (kind, damage) == ("metrics.jsonl", "cut"):  # its last line is left out, as after a kill
                assert call(*words).status == 0
            else:
                assert str(file) in call.refused(*words)
    finally:
        file.write_bytes(whole)


def test_a_damaged_study_is_named(call: Caller, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("grid: {method.name: [ba")
    assert "study.yaml" in call.refused("report", tmp_path)
    (tmp_path / "study.yaml").write_text("grid: {method.name: [base]}\nseeds: 1\n")
    for table in ("a,b\n1,2\n", "\0", ""):
        (tmp_path / "results.csv").write_text(table)
        ended = call("report", tmp_path)
        assert "Traceback" not in ended.err
        assert ended.status in (0, 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("simulate", "demo", "--backend", "deployment"), "want inprocess or ray. `mpssl-fed deploy` runs real processes"),
        (("simulate", "demo", "--backend", "foo"), "--backend foo: want inprocess or ray"),
        (("simulate", "demo", "federation.backend=deployment"), "mpssl-fed deploy"),
        (("simulate", "demo", "runtime.device=cuda"), "runtime.device=cuda: this machine has no such device"),
        (("simulate", "demo", "runtime.device=mps"), "runtime.device=mps: this machine has no such device"),
        (("simulate", "demo", "--output", ""), "--output is empty"),
        (("study", "demo", "--output", ""), "--output is empty"),
        (("simulate", "demo", "--rounds", "0"), "--rounds 0: Input should be greater than or equal to 1"),
        (("simulate", "demo", "--sites", "1000000"), "--sites 1000000: Input should be less than or equal to 100000"),
        (("simulate", "demo", "method.name=[base,mp-ssl]"), "unknown method.name '[base,mp-ssl]'"),
        (("simulate", "studies/demo"), "mpssl-fed study studies/demo"),
        (("study", "datasets/cifar10"), "mpssl-fed simulate datasets/cifar10"),
        (("deploy", "demo", "--port", "99999"), "99999"),
        (("site", "node", "--node-port", "0"), "0"),
        (("privacy", "plan", "demo", "optim.lr=1e400"), "want a finite number"),
        (("data", "demo", "data.labels_per_class=1000000"), "class '0'"),
        (("simulate", "demo", "rounds=3"), "Did you mean 'federation.rounds'?"),
    ],
)
def test_bad_input_is_told(
    words: tuple[str, ...], said: str, call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert said in " ".join(call.refused(*words).split())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_device(tmp_path: Path) -> Path:
    """A file that is always full: the kernel's own, or one like it where a container has none."""
    device = Path("/dev/full")
    if not device.is_char_device():
        device = tmp_path / "full"
        try:
            os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
            device.write_text("x")
        except OSError as error:
            if error.errno != errno.ENOSPC:
                pytest.skip("no /dev/full, and none can be made")
    return device


def test_a_full_closed_or_unread_output_ends_quietly_or_says_so(full_device: Path) -> None:
    def run(shell: str = "", **streams: int) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f'"$@" {shell}', "bash", *PROGRAM, "doctor", "--env"]
        return subprocess.run(command, text=True, timeout=PATIENCE_S, check=False, stderr=subprocess.PIPE, **streams)  # type: ignore[call-overload,no-any-return]

    full = run(f">{full_device}")
    assert (full.returncode, "No space left" in full.stderr, "Traceback" in full.stderr) == (2, True, False)
    closed = run(">&- 2>&-")
    assert (closed.returncode, closed.stderr) == (0, "")
    reader, writer = os.pipe()
    os.close(reader)
    unread = run(stdout=writer)
    os.close(writer)
    assert (unread.returncode, unread.stderr) == (1, "")


def test_an_ascii_terminal_gets_what_it_can_show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown, said = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", said)
    for words in (
        ["study", "demo", "method.augment=[weak,half-strong]", "seeds=1", "--dry-run", "--output", f"{tmp_path}/käse"],
        ["predict", f"{tmp_path}/\udcff", "x.png"],
    ):
        monkeypatch.setattr(sys, "argv", ["mpssl-fed", *words])
        with pytest.raises(SystemExit):
            main()
    assert b"base - weak" in shown.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"k\\xe4se" in shown.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"/\\xff" in said.buffer.getvalue()  # type: ignore[attr-defined]


HOMELESS = """
import os, pwd
for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "FLWR_HOME", "USER", "LOGNAME"):
    os.environ.pop(name, None)
def gone(_): raise KeyError("no such uid")
pwd.getpwuid = gone
import sys
from mpssl_fed.cli import main
tiny = "method.name=base federation.sites=1 federation.rounds=1 federation.local_steps=1"
for words in ("doctor", f"simulate demo {tiny}"):
    sys.argv = ["mpssl-fed", *words.split()]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, words
"""


def test_a_user_without_a_home_or_an_entry_in_passwd(tmp_path: Path) -> None:
    program = [sys.executable, "-c", HOMELESS]
    done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "demo" / "model.safetensors").is_file()


def test_a_user_without_a_home_is_told_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from mpssl_fed import environment

    monkeypatch.delenv("HOME")
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such uid")))
    environment.have_home()
    for asked in (environment.cache_folder, environment.state_folder, lambda: environment.expanded("~/x")):
        with pytest.raises(UserError, match="no home folder"):
            asked()
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert environment.cache_folder() == Path("/somewhere/mpssl-fed")
    assert environment.expanded("a/~b") == Path("a/~b")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("bad"), 2, "error: bad\n"),
        (PermissionError(13, "Permission denied", "a/b"), 2, "error: a/b: Permission denied\n"),
        (OSError(18, "Invalid cross-device link", "a", None, "b"), 2, "error: a -> b: Invalid cross-device link\n"),
        (OSError(24, "Too many open files", "x" * 999), 2, "Too many open files\n"),
        (OSError("no number"), 2, "error: no number\n"),
        (OSError(28, "No space left on device"), 2, "standard output, or a file: No space left on device\n"),
        (shutil.Error([("a", "b", "disk full"), ("c", "d", "gone")]), 2, "error: disk full; gone\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (UnicodeEncodeError("ascii", "ä", 0, 1, "why"), 2, "text that cannot be written"),
        (MemoryError(), 2, "memory ran out"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            2,
            "memory ran out",
        ),
        (SystemExit(3), 3, ""),
        (SystemExit(None), 0, ""),
        (SystemExit("words"), 1, "words\n"),
    ],
)
def test_each_end_has_its_status(error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error

    assert ending.ending_of(command) == status
    err = capsys.readouterr().err
    assert said in err if said else err == ""
    assert len(err) < 700
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("deployment"), TypeError("unhashable"), RuntimeError("shape"), AssertionError()]
)
def test_a_bug_stays_a_traceback_and_asks_for_a_report(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error

    assert ending.ending_of(command) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "in command" in err
    assert err.endswith("This is a bug of mpssl-fed: please report it, with the lines above and the command.\n")
