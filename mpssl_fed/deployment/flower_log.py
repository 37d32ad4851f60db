"""What Flower's processes print, as JSON lines: they know no such format themselves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mpssl_fed.deployment.site_log import Form, Level
from mpssl_fed.runs.json_lines import json_line

FLOWER, LEVEL, LAST_WORDS_S = "flwr", "FLWR_LOG_LEVEL", 5.0
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
HEAD = re.compile(r"^(?:\d{4}-\d\d-\d\dT\S+\s+)?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b\s*(?:\[([\w.]+)\])?\s*:?\s*(.*)$")
"""An optional time, a level, an optional logger and the message: how Flower and the web server in it begin a line."""


def to_json(lines: Iterable[bytes], write: Callable[[str], Any]) -> None:
    """Write each line as JSON until there are no more. One without a level of its own has that of the line before it."""
    level = "INFO"
    for line in lines:
        text = COLOURS.sub("", line.decode("utf-8", "replace")).rstrip()
        if not text.strip():
            continue
        head = HEAD.match(text)
        level = head.group(1) if head else level
        write(json_line(level, (head and head.group(2)) or FLOWER, head.group(3) if head else text))


def log_as_json(child: subprocess.Popen[bytes]) -> threading.Thread:
    """Write what a process prints into its pipe, where it has one, to standard error as JSON, while it and its children live."""
    writer = threading.Thread(target=to_json, args=(child.stdout or (), _to_stderr), daemon=True, name="its log")
    writer.start()
    return writer


def level_of_flower(level: Level | None) -> dict[str, str]:
    """Return the variable that says from which level on Flower logs: as asked, else as the user has set it, else info."""
    return {LEVEL: level or os.environ.get(LEVEL) or "info"}


def run_flower(command: Sequence[str], level: Level | None, form: Form) -> int:
    """Become one of Flower's commands that logs from ``level`` on; as JSON, run it and return its status, as a shell has it.

    Its lines then come on standard error, SIGTERM and SIGINT go on to it, and its last words are waited for. A signal's status is
    128 and its number.
    """
    os.environ.update(level_of_flower(level))
    if form == "text":
        os.execv(command[0], list(command))
    child = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: child.send_signal(got))
    writer = log_as_json(child)
    status = child.wait()
    writer.join(LAST_WORDS_S)  # no longer: what it started may hold the pipe open
    return status if status >= 0 else 128 - status


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
