"""Log lines for machines: one JSON object a line, of a run and of whatever else writes a log here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.runs.progress import Lines, describe
from mpssl_fed.runs.rounds import Round

LOGGER = "mpssl_fed.run"


def json_line(level: str, logger: str, message: str, at: float | None = None, **more: Any) -> str:
    """Return one line, ``{"time", "level", "logger", "message", ...}``; at: seconds since 1970, by default now; time is in UTC."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": stamp, "level": level, "logger": logger, "message": message, **more}, allow_nan=False)


class JsonLines(Lines):
    """What :class:`Lines` says, as JSON; a round carries its numbers too, by their names in ``metrics.jsonl``."""

    def __init__(self, write: Callable[[str], Any] = print, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(self.tell, clock)
        self.out = write

    def tell(self, message: str, level: str = "INFO", **more: Any) -> None:
        """Write one line."""
        self.out(json_line(level, LOGGER, message, **more))

    def start(self, config: Config, folder: str) -> None:
        """Write where the run goes."""
        super().start(config, folder)
        self.tell("started", folder=folder, rounds=self.rounds, sites=config.federation.sites)

    def round(self, record: Round) -> None:
        """Write the round, and what the sites told of the model after it."""
        self.tell(f"round {record.number}/{self.rounds}  {describe(record)}", **record.to_json())
        self.printed = self.clock()
