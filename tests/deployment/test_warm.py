"""A nest of real processes: one for each message, nothing of it in another, and Flower's own command where there is no nest."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.deployment.warm import handover, nest
from mpssl_fed.deployment.warm.nest import SUPEREXEC, beside, command
from tests.patience import PATIENCE_S, wait_for
from tests.real.sites import NOBODY

SUPEREXECS = """
import json, os, random, subprocess, sys
import numpy
from mpssl_fed.deployment.warm import handover, nest
numpy.random.seed(1), random.seed(1)
handover.PATIENCE_S = 3600.0
seen = []
if nest.make_nest():
    seen.append(sys.argv[1])
    ended = subprocess.run(["false"]).returncode
    drawn, files = [random.random(), numpy.random.random()], os.listdir("/proc/self/fd")
    print(json.dumps({"words": sys.argv[1:], "pid": os.getpid(), "nest": os.getppid(), "drawn": drawn, "seen": seen, "ended": ended,
                      "open": files}))
    sys.exit()
print(os.environ[handover.NEST], os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    before = os.umask(0o077)  # as a daemon has it that starts its SuperNode
    try:
        variables = beside(tmp_path / "ho me", {"PATH": "/somewhere", "OTHER": "1"})
    finally:
        os.umask(before)
    folder = tmp_path / "ho me" / "commands"
    assert variables == {"PATH": f"{folder}:/somewhere", "OTHER": "1"}
    return folder


@pytest.fixture
def superexec() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has made a nest, and the nest's name."""
    process = subprocess.Popen([sys.executable, "-c", SUPEREXECS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name, pid = process.stdout.readline().split()
    assert int(pid) == process.pid
    yield process, name
    process.kill()
    process.communicate()


def told(superexec: tuple[subprocess.Popen[str], str], commands: Path, *words: str) -> dict[str, Any]:
    """Return what the process of a message says of itself."""
    process, name = superexec
    done = subprocess.run([commands / handover.COMMAND, *words], env={handover.NEST: name}, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0
    assert process.stdout is not None
    said: dict[str, Any] = json.loads(process.stdout.readline())
    return said


def lives(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


def children(pid: int) -> int:
    """Return how many children of a process live."""
    return sum(lives(int(child)) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split())


def test_both_commands_are_for_every_user_to_run(commands: Path) -> None:
    assert {path.name: path.stat().st_mode & 0o777 for path in commands.iterdir()} == {SUPEREXEC: 0o755, handover.COMMAND: 0o755}
    assert commands.stat().st_mode & 0o777 == 0o755


def test_each_message_has_a_process_of_its_own(superexec: tuple[subprocess.Popen[str], str], commands: Path) -> None:
    one, other = (told(superexec, commands, "--token", token, "--flag", "a b") for token in ("1", "2"))
    assert [said["words"] for said in (one, other)] == [["--token", "1", "--flag", "a b"], ["--token", "2", "--flag", "a b"]]
    assert one["nest"] == other["nest"] != superexec[0].pid
    assert len({one["pid"], other["pid"], one["nest"]}) == 3
    assert all(mine != theirs for mine, theirs in zip(one["drawn"], other["drawn"], strict=True))  # noise would be the same noise
    assert one["seen"] == other["seen"] == ["--token"]
    assert one["ended"] == 1  # it hears of the end of its own children
    assert len(one["open"]) == 4  # 0, 1, 2 and the listing: neither the nest's socket nor its pipe


def test_a_nest_ends_with_its_superexec(superexec: tuple[subprocess.Popen[str], str], commands: Path) -> None:
    pid = int(told(superexec, commands, "x")["nest"])
    superexec[0].kill()
    superexec[0].wait()
    wait_for(lambda: not lives(pid), "its end")
    assert not handover.handed_over(superexec[1], ["x"])


def test_without_a_nest_it_is_flowers_own_command(commands: Path) -> None:
    environment = {**os.environ, handover.NEST: "mpssl-fed-nobody-is-there"}
    done = subprocess.run(
        [commands / handover.COMMAND, "--help"], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0
    assert "Run a Flower ClientApp" in done.stdout


def test_where_nothing_may_be_executed_the_path_leads_on(commands: Path, tmp_path: Path) -> None:
    own = tmp_path / "own" / handover.COMMAND
    own.parent.mkdir()
    own.write_text("#!/bin/sh\necho own")
    own.chmod(0o755)
    for path in commands.iterdir():
        path.chmod(0o644)
    environment = {"PATH": f"{commands}:{own.parent}:{os.defpath}"}
    done = subprocess.run([handover.COMMAND], env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout == "own\n"


@pytest.fixture
def ask(superexec: tuple[subprocess.Popen[str], str]) -> Iterator[Callable[[bytes], socket.socket]]:
    """Return a connection to the nest over which these bytes have gone."""
    made = list[socket.socket]()

    def connected(said: bytes) -> socket.socket:
        nest = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.append(nest)
        nest.settimeout(PATIENCE_S)
        nest.connect(f"\0{superexec[1]}")
        if said:
            nest.sendall(said)
        return nest

    yield connected
    for connection in made:
        connection.close()


def test_whoever_says_nothing_holds_up_nobody(
    superexec: tuple[subprocess.Popen[str], str], ask: Callable[[bytes], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        ask(b"")
    monkeypatch.setattr(handover, "PATIENCE_S", PATIENCE_S)
    assert handover.handed_over(superexec[1], ["heard"])  # the three are waited for much longer than that


@pytest.mark.parametrize(
    "said", [b"null", b"7", b'{"a": 1}', b"[1]", b"?", b"\xff", b"[" * 30_000, b'["' + b"x" * (1 << 16) + b'"]']
)
def test_what_is_no_list_of_words_makes_no_process(
    said: bytes, superexec: tuple[subprocess.Popen[str], str], commands: Path, ask: Callable[[bytes], socket.socket]
) -> None:
    before = told(superexec, commands, "x")["nest"]
    assert ask(said).recv(len(handover.DONE)) == b""
    wait_for(lambda: children(int(before)) == 0, "the end of who was asked so")
    after = told(superexec, commands, "y")
    assert (after["nest"], after["words"]) == (before, ["y"])


def test_who_does_not_wait_for_the_answer_has_no_process(
    superexec: tuple[subprocess.Popen[str], str], commands: Path, ask: Callable[[bytes], socket.socket]
) -> None:
    """It has become Flower's own command, and a message must not be worked on twice."""
    nest = int(told(superexec, commands, "x")["nest"])
    os.kill(nest, signal.SIGSTOP)
    ask(b'["twice"]').close()
    os.kill(nest, signal.SIGCONT)
    first = told(superexec, commands, "once")
    wait_for(lambda: children(nest) == 0, "the end of both")
    assert [first["words"], told(superexec, commands, "after")["words"]] == [["once"], ["after"]]


OTHERS = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as nest:
    nest.bind("\\0" + sys.argv[2])
    nest.listen()
    print("up", flush=True)
    print(len(nest.accept()[0].recv(100)), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_another_user_who_takes_the_name_is_told_nothing() -> None:
    name = f"mpssl-fed-test-{os.getpid()}"
    with subprocess.Popen([sys.executable, "-c", OTHERS, str(NOBODY), name], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        assert not handover.handed_over(name, ["--token", "secret"])
        assert other.stdout.readline() == "0\n"


def no_process() -> bool:
    raise BlockingIOError("no more processes")


@pytest.mark.parametrize(("made", "does"), [(no_process, SUPEREXEC), (lambda: False, SUPEREXEC), (lambda: True, handover.COMMAND)])
def test_whoever_is_no_process_of_a_message_is_the_superexec(
    made: Callable[[], bool], does: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[tuple[str, list[str]]]()
    monkeypatch.setattr(sys, "argv", ["nest.py", "--insecure"])
    monkeypatch.setattr(nest, "make_nest", made)
    monkeypatch.setattr(nest, "command", lambda name: lambda: done.append((name, sys.argv)))
    with pytest.raises(SystemExit):
        nest.main()
    assert done == [(does, [does, "--insecure"])]


def test_a_command_that_flower_does_not_have_is_said() -> None:
    with pytest.raises(LookupError, match="flower-nothing"):
        command("flower-nothing")
