"""A daemon in this process, its socket real: callers that dawdle or crowd, and rounds that do not end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed.deployment import daemon as module
from mpssl_fed.deployment import wire, worker
from mpssl_fed.deployment.daemon import Daemon, Door
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.deployment.resident import Resident
from mpssl_fed.deployment.worker import MOST_WAITING
from mpssl_fed.method import Learner
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.policy import load_policy
from tests.patience import PATIENCE_S, wait_for
from tests.real.sites import NOBODY, POLICY, RealSite, message, tiny, weights

STEPS = 40
CONFIG = tiny(
    "privacy={epsilon: 4.0, public_size: 200, sample_rate: 0.1}", f"federation={{sites: 2, rounds: 3, local_steps: {STEPS}}}"
)
PRIVATE = POLICY | {"scope": "end-to-end", "max_epsilon": 20.0, "public_size": 200, "metrics": []}
START = weights(CONFIG)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with a real site, as ``mpssl-fed site run`` makes it."""
    site = RealSite(tmp_path, CONFIG, policy=PRIVATE)
    assert CONFIG.data.task is not None
    site.state.mkdir(mode=0o700)
    data = OwnData(site.listing, CONFIG.data.task.classes, channels=1)
    resident = Resident(0, site.state, data, load_policy(site.policy_file))
    daemon = Daemon(resident, Door(site.socket, NOBODY), {}, most_bytes=10_000_000)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    yield daemon
    daemon.shutdown()
    thread.join(PATIENCE_S)


def ask(daemon: Daemon, number: int = 1) -> tuple[int, str]:
    """Send a train request and return (status, code)."""
    status, answer = wire.call(daemon.door.path, "POST", wire.TRAIN, message(CONFIG, START, number), timeout=PATIENCE_S)
    return status, "" if status == 200 else json.loads(answer)["code"]


def connected(daemon: Daemon, text: bytes) -> socket.socket:
    """Return a connection on which ``text`` has been sent."""
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(PATIENCE_S)
    one.connect(str(daemon.door.path))
    one.sendall(text)
    return one


def drip(connection: socket.socket) -> None:
    """Send a byte now and then, for ever."""
    while True:
        connection.sendall(b"x")
        threading.Event().wait(0.01)


def spent(daemon: Daemon) -> int:
    file = daemon.resident.state / "ledger.sqlite"
    return sum(Ledger(file).spent("digits").history.values()) if file.exists() else 0


@pytest.mark.parametrize(
    "text", [b"", b"GET /v1/card HT", b"POST /v1/train HTTP/1.1\r\n", b"POST /v1/train HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"]
)
def test_a_request_that_does_not_end_is_cut_off(served: Daemon, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_S", 0.05)
    with connected(served, text) as one:
        assert one.recv(1000) in (b"",)
    assert ask_card(served)


def test_a_request_in_drops_is_cut_off_though_it_never_stalls(served: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_S", 0.3)
    with connected(served, b"POST /v1/train HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n") as one, pytest.raises(OSError):  # noqa: PT011
        drip(one)
    assert ask_card(served)


def test_no_more_bodies_are_held_than_may_wait(served: Daemon) -> None:
    slow = b"POST /v1/train HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc"
    held = [connected(served, slow) for _ in range(MOST_WAITING)]
    wait_for(lambda: served.bodies._value == 0, "four bodies on their way")
    assert ask(served) == (409, "busy")
    for one in held:
        one.close()
    wait_for(lambda: served.bodies._value == MOST_WAITING, "their end")
    assert ask(served) == (200, "")


@pytest.mark.parametrize("length", ["-1", "1e3", "", "9" * 400, "0x10", "١", "2147483649"])
def test_lengths_that_are_none(served: Daemon, length: str) -> None:
    with connected(served, f"POST /v1/train HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode()) as one:
        assert one.recv(1000).startswith(b"HTTP/1.1 409")
    assert spent(served) == 0


def test_an_overdue_round_is_given_up_its_charge_stays_and_the_site_answers_on(
    served: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit passes while a step is taken; the next one is not."""
    monkeypatch.setattr(worker, "LOOK_S", 0.01)
    resident, step, taken = served.resident, Learner.step, list[int]()

    def long(self: Learner, t: int) -> dict[str, float]:
        taken.append(t)
        if len(taken) == 3:
            resident._worker.limit_s = 0.0
            assert resident._worker._overdue.wait(PATIENCE_S)
        return step(self, t)

    monkeypatch.setattr(Learner, "step", long)
    assert ask(served) == (409, "time-limit")
    assert len(taken) == 3
    assert spent(served) == STEPS  # reserved as a whole before the first read
    assert resident.refused == {"time-limit": 1}
    assert not resident.hung
    resident._worker.limit_s = PATIENCE_S
    assert ask(served) == (200, "")
    assert spent(served) == 2 * STEPS
    assert not list((resident.state / "rounds").glob("forgotten"))


def test_a_stuck_round_is_told_and_the_daemon_started_again(served: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LOOK_S", 0.01)
    release, again = threading.Event(), threading.Event()
    served.start_again = again.set
    worker_ = served.resident._worker
    worker_.grace_s = 0.05

    def stuck(self: Learner, t: int) -> dict[str, float]:
        worker_.limit_s = 0.05
        release.wait(PATIENCE_S)
        raise RuntimeError

    monkeypatch.setattr(Learner, "step", stuck)
    assert ask(served) == (409, "time-limit")
    assert again.wait(PATIENCE_S)
    assert ask(served) == (409, "busy")
    assert spent(served) == STEPS
    release.set()


def ask_card(daemon: Daemon) -> bool:
    return wire.call(daemon.door.path, "GET", wire.CARD, timeout=PATIENCE_S)[0] == 200
