"""One piece of work at a time, none for ever: what a caller is told, and what goes on afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mpssl_fed.deployment import worker as module
from mpssl_fed.deployment.worker import MOST_WAITING, Worker
from mpssl_fed.federation.refusal import Refusal

LONG = 60.0


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Ends all stuck work when the test is over."""
    event = threading.Event()
    yield event
    event.set()


def code(work: Callable[[], Any]) -> str:
    with pytest.raises(Refusal) as refusal:
        work()
    return refusal.value.code


def test_work_returns_raises_and_stays_in_one_thread() -> None:
    worker = Worker()
    assert {worker.do(threading.get_ident) for _ in range(3)} != {threading.get_ident()}
    assert len({worker.do(threading.get_ident) for _ in range(3)}) == 1
    with pytest.raises(ZeroDivisionError):
        worker.do(lambda: 1 / 0)

    def own() -> None:
        raise TimeoutError("of the work itself")

    with pytest.raises(TimeoutError, match="of the work itself"):
        worker.do(own)
    assert worker.waiting == 0


def test_overdue_work_ends_where_it_asks_and_the_next_is_fresh() -> None:
    worker, steps = Worker(limit_s=0.05, grace_s=LONG), list[int]()

    def endless() -> None:
        while True:
            worker.proceed()
            steps.append(1)
            threading.Event().wait(0.005)

    assert code(lambda: worker.do(endless)) == "time-limit"
    assert steps
    assert not worker.hung
    assert worker.do(lambda: worker.proceed() or "fine") == "fine"


def test_work_that_ends_within_its_grace_is_answered() -> None:
    worker, told = Worker(limit_s=0.02, grace_s=LONG), threading.Event()

    def late() -> str:
        worker._overdue.wait(LONG)
        told.set()
        return "done"

    assert worker.do(late) == "done"
    assert told.is_set()


def test_stuck_work_is_given_up_and_so_is_whatever_waits(release: threading.Event) -> None:
    worker = Worker(limit_s=0.1, grace_s=0.1)
    begun, codes = threading.Event(), list[str]()

    def stuck() -> None:
        begun.set()
        release.wait()

    first = threading.Thread(target=lambda: codes.append(code(lambda: worker.do(stuck))))
    first.start()
    assert begun.wait(LONG)
    assert code(lambda: worker.do(lambda: None)) == "busy"  # it waited behind the stuck one
    first.join(LONG)
    assert codes == ["time-limit"]
    assert worker.hung
    assert code(lambda: worker.do(lambda: None)) == "busy"
    assert worker.waiting == 0


def test_a_stuck_report_does_not_stop_callers_for_ever(release: threading.Event) -> None:
    worker = Worker(limit_s=0.05, grace_s=0.05)
    worker.later(lambda: release.wait() and None)
    assert code(lambda: worker.do(lambda: None)) == "busy"
    assert worker.hung


def test_no_more_wait_than_there_is_room_for(release: threading.Event) -> None:
    """Counted under a lock: callers that come at one moment do not all get in."""
    worker, gate = Worker(limit_s=LONG), threading.Barrier(12)
    codes, answers, lock = list[str](), list[str](), threading.Lock()

    def ask() -> None:
        gate.wait(LONG)
        try:
            worker.do(lambda: release.wait(LONG))
            with lock:
                answers.append("done")
        except Refusal as refusal:
            with lock:
                codes.append(refusal.code)
                if len(codes) == 12 - MOST_WAITING:
                    release.set()

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert codes == ["busy"] * (12 - MOST_WAITING)
    assert answers == ["done"] * MOST_WAITING
