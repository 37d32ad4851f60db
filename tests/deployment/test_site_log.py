"""A caller that is refused ten times a second may not fill the owner's disk, nor hide what matters among its lines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

from mpssl_fed.deployment.flower_log import to_json
from mpssl_fed.deployment.site_log import MOST_WARNINGS, JsonFormatter, Sparing
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


def test_the_last_words_of_a_process_that_ends_are_written() -> None:
    speak = "print(*range(20000), sep=chr(10)); raise SystemExit(3)"
    run = f"run({[sys.executable, '-c', speak]}, 'info', 'json')"
    program = f"from mpssl_fed.deployment.flower_log import run_flower as run; raise SystemExit({run})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 3
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == [str(i) for i in range(20000)]
