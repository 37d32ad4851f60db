"""A site daemon's log: on standard error, without a value of private data, and never so long that a caller fills the disk."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from mpssl_fed.runs.json_lines import json_line

Level = Literal["debug", "info", "warning", "error"]
Form = Literal["text", "json"]

MOST_WARNINGS = 300


class Sparing(logging.Filter):
    """Lets ``most`` warnings a minute pass, since each refused message writes one or two, and says how many it left out."""

    def __init__(self, most: int = MOST_WARNINGS) -> None:
        super().__init__()
        self.most, self._minute, self._count, self._left_out = most, -1, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; errors and news of rounds always are."""
        if record.levelno != logging.WARNING:
            return True
        minute = int(record.created // 60)
        if minute != self._minute:
            if self._left_out:
                record.msg, record.args = f"{record.getMessage()} (before it, {self._left_out} warnings were left out)", ()
            self._minute, self._count, self._left_out = minute, 0, 0
        self._count += 1
        self._left_out += self._count > self.most
        return self._count <= self.most


class JsonFormatter(logging.Formatter):
    """One JSON object a line. A traceback, which may quote values, is left out."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json_line(record.levelname, record.name, record.getMessage(), record.created)


def log_plainly(level: Level = "info", form: Form = "text") -> None:
    """Send this package's log, which holds no value of private data, to standard error; apart from every other package's."""
    logger = logging.getLogger("mpssl_fed")
    logger.setLevel(level.upper())
    logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Sparing())
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logger.addHandler(handler)
