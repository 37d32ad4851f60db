"""A site daemon's log: on standard error, without a value of private data, and never so long that a caller fills the disk."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, Literal

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


class Wordless(logging.Filter):
    """Leaves of another package's record where it was written: its words may quote what it was given."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Take the words away."""
        record.msg, record.args, record.exc_info, record.exc_text = f"said at {record.filename}:{record.lineno}", (), None, None
        return True


def log_plainly(level: Level = "info", form: Form = "text") -> None:
    """Send this package's log, which holds no value of private data, to standard error; of all else that speaks in this process,
    other packages, warnings and threads that end by an exception, who spoke and where, without the words."""
    own, others = logging.getLogger("mpssl_fed"), logging.getLogger()
    own.setLevel(level.upper())
    own.propagate = False
    others.setLevel(logging.WARNING)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for logger, words in ((own, ()), (others, (Wordless(),))):
        handler = logging.StreamHandler(sys.stderr)
        for one in (*words, Sparing()):
            handler.addFilter(one)
        handler.setFormatter(JsonFormatter() if form == "json" else text)
        logger.addHandler(handler)
    warnings.showwarning = _warned
    threading.excepthook = lambda of: _raised(of.exc_value)
    sys.unraisablehook = lambda of: _raised(of.exc_value)


def where(error: BaseException) -> str:
    """Return file and line of each frame, without the text of any value."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:  # noqa: ARG001
    logging.getLogger("mpssl_fed.daemon").warning("%s at %s:%d", category.__name__, Path(filename).name, lineno)


def _raised(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit):
        logging.getLogger("mpssl_fed.daemon").error("a thread ended: %s at %s", type(error).__name__, where(error))
