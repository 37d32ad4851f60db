"""What was left out of a test run is said at its end, so that no skip is taken for a pass; and the command line as a function."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

LONG = Path(__file__).parent / "real"


def pytest_configure() -> None:
    """Let no test depend on the machine's speed, nor on a shell that started it in the background, where SIGINT is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def _umask_of_its_own() -> Iterator[None]:
    """Leave no test the umask of an earlier one: a site's command sets one for its process, which here is everybody's."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that the workers end together."""
    items.sort(key=lambda item: not item.path.is_relative_to(LONG))


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


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``cli("predict", run, file)`` -> (exit status, standard output, standard error), through the real entry point."""

    from mpssl_fed.cli import main  # here: tests of the method alone need no command line

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mpssl-fed", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return int(stop.value.code or 0), out, err

    return call
