"""A caller that is refused ten times a second may not fill the owner's disk, nor hide what matters among its lines."""

from __future__ import annotations

import logging

from mpssl_fed.deployment.site_log import MOST_WARNINGS, Sparing


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
