"""What was left out of a test run is said at its end, by what it wanted, so that a skip is never taken for a pass."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write one line a reason, then one that counts them all."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons = Counter(_reason(report) for report in skipped)
    terminalreporter.section("left out")
    for reason, n in sorted(reasons.items()):
        terminalreporter.write_line(f"{n:>4}  {reason}")
    terminalreporter.write_line(f"{sum(reasons.values())} tests were left out for want of what stands above")


def _reason(report: pytest.TestReport) -> str:
    words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return words.removeprefix("Skipped: ")
