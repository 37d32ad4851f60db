"""What Flower's processes print, as JSON lines: they know no such format themselves."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mpssl_fed.runs.json_lines import json_line

FLOWER = "flwr"
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


def log_as_json(child: subprocess.Popen[bytes]) -> None:
    """Write what a process prints into its pipe, where it has one, to standard error as JSON, while it and its children live."""
    if child.stdout is not None:
        threading.Thread(target=to_json, args=(child.stdout, _to_stderr), daemon=True, name="its log").start()


def run_as_json(command: Sequence[str]) -> int:
    """Run one of Flower's commands with its lines as JSON on standard error; SIGTERM and SIGINT go on to it. Return its status."""
    child = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: child.send_signal(got))
    log_as_json(child)
    return child.wait()


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
