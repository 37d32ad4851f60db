"""A caller that is refused ten times a second may not fill the owner's disk, nor hide what matters among its lines."""

from __future__ import annotations

import json
import logging
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from mpssl_fed.cli.ending import ending_of
from mpssl_fed.deployment import start_site
from mpssl_fed.deployment.asking import health
from mpssl_fed.deployment.flower_log import to_json
from mpssl_fed.deployment.site_log import MOST_WARNINGS, JsonFormatter, Level, Sparing
from mpssl_fed.deployment.supernode import SuperNode
from mpssl_fed.errors import UserError
from mpssl_fed.files import short_folder
from tests.patience import PATIENCE_S


def written(spare: Sparing, second: float, level: int = logging.WARNING, n: int = 1) -> list[str]:
    """Return the lines that come out of n records of that second."""
    records = [logging.LogRecord("mpssl_fed.daemon", level, "f", 1, "refused: %s", ("plan",), None) for _ in range(n)]
    for record in records:
        record.created = second
    return [record.getMessage() for record in records if spare.filter(record)]


def test_a_flood_of_refusals_is_counted_not_written() -> None:
    spare = Sparing()
    assert len(written(spare, 600.0, n=5000)) == MOST_WARNINGS
    assert len(written(spare, 601.0, logging.INFO, 50)) == 50
    assert len(written(spare, 602.0, logging.ERROR, 50)) == 50
    assert written(spare, 660.0, n=2) == ["refused: plan (before it, 4700 warnings were left out)", "refused: plan"]


def test_a_site_that_is_left_in_peace_writes_every_line() -> None:
    spare = Sparing()
    assert [len(written(spare, 60.0 * minute, n=MOST_WARNINGS)) for minute in range(5)] == [MOST_WARNINGS] * 5


def test_a_line_is_one_object_whatever_stands_in_it_and_quotes_no_traceback() -> None:
    try:
        raise ValueError("a path of private data")
    except ValueError:
        record = logging.LogRecord("mpssl_fed.daemon", logging.ERROR, "f", 1, 'of "%s"\n{', ("a\u2028b",), sys.exc_info())
    record.created = 0.25
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.250Z", "level": "ERROR", "logger": "mpssl_fed.daemon", "message": 'of "a\u2028b"\n{',
    }  # fmt: skip


SPEAK = """
import logging, threading, warnings
from mpssl_fed.deployment.site_log import log_plainly
log_plainly("debug", {form!r})
logging.getLogger("PIL.TiffImagePlugin").warning("of PLANTED")
logging.getLogger("PIL.TiffImagePlugin").debug("of PLANTED")
warnings.warn("PLANTED-file.png is odd")
def fail(): raise ValueError("PLANTED")
thread = threading.Thread(target=fail); thread.start(); thread.join()
class Odd:
    def __del__(self): fail()
Odd()
logging.getLogger("mpssl_fed.daemon").info("round 1")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_of_whatever_else_speaks_in_the_process_the_words_are_left_out(form: str) -> None:
    command = [sys.executable, "-W", "always", "-c", SPEAK.format(form=form)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert "PLANTED" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    if form == "json":
        lines = [f"{one['level']} {one['logger']}: {one['message']}" for one in map(json.loads, lines)]
    told = "WARNING PIL.TiffImagePlugin: said at <string>:5", "UserWarning at <string>:7", "ended: ValueError at <string>:8 <"
    for words, line in zip((*told, "ended: ValueError", "round 1"), lines, strict=True):
        assert words in line


def test_what_flower_prints_keeps_its_level_and_logger() -> None:
    printed = [
        b"\x1b[92mINFO \x1b[0m:      Starting Flower SuperLink\n",
        b"\n",
        b"2026-11-29T03:02:34.189Z WARNING [uvicorn.error] Started server process [13710]\n",
        b"  its second line\n",
        b"\xff no level\n",
        b"INFORMAL words: no level\n",
        b"\x1b[91mERROR \x1b[0m:     it failed",
    ]
    lines: list[str] = []
    to_json(printed, lines.append)
    told = [(one["level"], one["logger"], one["message"]) for one in map(json.loads, lines)]
    assert told == [
        ("INFO", "flwr", "Starting Flower SuperLink"),
        ("WARNING", "uvicorn.error", "Started server process [13710]"),
        ("WARNING", "flwr", "  its second line"),
        ("WARNING", "flwr", "\ufffd no level"),
        ("WARNING", "flwr", "INFORMAL words: no level"),
        ("ERROR", "flwr", "it failed"),
    ]


def flower(speak: str, level: str | None = "info", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the place of one of Flower's commands."""
    run = f"run({[sys.executable, '-c', speak]}, {level!r}, 'json')"
    program = f"from mpssl_fed.deployment.flower_log import run_flower as run; raise SystemExit({run})"
    variables = {key: value for key, value in os.environ.items() if key != "FLWR_LOG_LEVEL"} | variables
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=variables)


def test_the_last_words_of_a_process_that_ends_are_written() -> None:
    done = flower("print(*range(20000), sep=chr(10)); raise SystemExit(3)")
    assert done.returncode == 3
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == [str(i) for i in range(20000)]


def test_a_process_that_a_signal_ends_has_a_shell_s_status() -> None:
    assert flower("import os; os.kill(os.getpid(), 15)").returncode == 128 + 15


@pytest.mark.parametrize(
    ("asked", "variables", "level"),
    [(None, {}, "info"), (None, {"FLWR_LOG_LEVEL": "debug"}, "debug"), ("error", {"FLWR_LOG_LEVEL": "debug"}, "error")],
)
def test_flower_s_level_is_the_one_asked_for_else_the_user_s(
    asked: Level | None, variables: dict[str, str], level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = flower("import os; print(os.environ['FLWR_LOG_LEVEL'])", asked, **variables)
    assert json.loads(done.stderr)["message"] == level
    monkeypatch.delenv("FLWR_LOG_LEVEL", raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    node = SuperNode("localhost:1", Path("ca"), Path("key"), Path("socket"), 1, log_level=asked)
    assert node.variables(Path("home"))["FLWR_LOG_LEVEL"] == level


def test_a_site_s_node_logs_as_the_site_was_told_to(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setattr(start_site, "serve_site", lambda settings, node: served.append((settings, node)))
    words = ("--data", tmp_path, "--classes", "a,b", "--policy", "p.yaml", "--server", "h:1", "--ca", "c", "--key", "k")
    for more in ((), ("--log-level", "error", "--log-format", "json")):
        status, _, error = cli("site", *words, *more)
        assert status == 0, error
    assert [(settings.log_level, node.log_level, node.log_format) for settings, node in served] == [
        ("info", None, "text"),
        ("error", "error", "json"),
    ]


@pytest.mark.parametrize("words", [("site", "run", "--data", "."), ("server", "--keys", "."), ("submit", "nosuch")])
def test_what_stops_a_start_is_an_object_too(
    words: tuple[str, ...], cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ca.crt").touch()
    more = {"site": ("--classes", "a,b", "--policy", "none.yaml"), "server": ("--database", "d"), "submit": ("--ca", "ca.crt")}
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    status, out, error = cli(*words, *more[words[0]], "--log-format", "json")
    assert (status, out) == (2, "")
    (line,) = error.splitlines()
    found = json.loads(line)
    assert (found["level"], found["logger"]) == ("ERROR", "mpssl_fed")
    assert not found["message"].startswith("error")


def test_a_bug_is_told_as_an_object_without_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def breaks() -> None:
        raise ZeroDivisionError("the label of an image")

    monkeypatch.setattr("sys.argv", ["mpssl-fed", "site", "--log-format=json"])
    assert ending_of(breaks) == 1
    found = json.loads(capfd.readouterr().err)
    assert "ZeroDivisionError" in found["message"]
    assert "label of an image" not in str(found)


class Older(BaseHTTPRequestHandler):
    """A daemon of before /healthz."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_daemon_of_an_earlier_version_is_said_to_be_one(tmp_path: Path) -> None:
    with short_folder(70, "a socket") as folder, tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name) / "site.sock"
        with socketserver.UnixStreamServer(str(place), Older) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            with pytest.raises(UserError, match=r"is of an earlier version, which does not know /healthz; start it again"):
                health(tmp_path, place)
            thread.join()
