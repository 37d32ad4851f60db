"""What a daemon tells systemd: nothing where none asks, a beat twice a span, and never a fault of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed.deployment.notify import Heartbeat, notify
from tests.patience import PATIENCE_S


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listens as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield heard


def test_a_beat_comes_twice_in_a_span_however_often_it_is_due(supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    now = [100.0]
    heart = Heartbeat(lambda: now[0])
    for second in range(125):
        now[0] = 100.0 + second
        heart.beat()
    notify("READY=1")
    heard = []
    while (word := supervisor.recv(99)) != b"READY=1":
        heard.append(word)
    assert heard == [b"WATCHDOG=1"] * 5  # at 0, 30, 60, 90 and 120


@pytest.mark.parametrize(
    "given", [{}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}]
)
def test_it_is_silent_where_no_beat_is_asked_of_it(
    supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    Heartbeat().beat()
    notify("READY=1")
    assert supervisor.recv(99) == b"READY=1"


def test_an_abstract_address_is_one_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{tmp_path}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{tmp_path}")
        notify("READY=1")
        assert heard.recv(99) == b"READY=1"


@pytest.mark.parametrize("address", ["", "nowhere", "/nowhere/at/all", "@nobody-listens-here"])
def test_a_supervisor_that_is_not_there_is_no_fault(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
