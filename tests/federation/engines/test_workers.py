"""Worker processes end with the bits of one process; a lost worker, Ctrl-C and a deadline do what they do without."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from safetensors.torch import load_file

from clients.app import app
from mpssl_fed.config import from_mapping
from mpssl_fed.errors import UserError, on_command_line
from mpssl_fed.federation.engines.pipes import whole
from mpssl_fed.federation.engines.shelf import PLACE
from mpssl_fed.federation.engines.workers import READY, WorkerGrid, workers_of
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.files import FullDiskError
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.runs.reader import read_history, read_manifest
from mpssl_fed.runs.run_directory import RunDirectory
from tests.federation.conftest import TINY
from tests.patience import PATIENCE_S, wait_for

Runner = Callable[..., RunDirectory]

MP_SSL = (
    "method={name: mp-ssl, batch: 4, lmo_batch: 4, lmo_every: 2, refresh_every: 1, buffer: 1}",
    "federation.sites=5",
    "federation.rounds=3",
    "federation.fraction=0.7",
    "federation.evaluate_at_sites.times=1",
)


def _same(one: RunDirectory, other: RunDirectory) -> None:
    first, second = load_file(one.folder / "model.safetensors"), load_file(other.folder / "model.safetensors")
    assert all(first[key].equal(second[key]) for key in first)
    for site in sorted(one.sites.iterdir()):
        mine, theirs = SiteState(site).latest(one.run_id), SiteState(other.sites / site.name).latest(other.run_id)
        assert mine
        assert theirs
        assert all(mine[key].equal(theirs[key]) for key in mine)
    told = [[(r.accuracy, r.train_loss, r.at_sites) for r in read_history(run.folder)] for run in (one, other)]
    assert told[0] == told[1]


def test_any_number_of_workers_ends_with_the_same_bits(run_tiny: Runner, tmp_path: Path) -> None:
    whole = run_tiny(*MP_SSL, folder=tmp_path / "1")
    for workers in (2, 5):
        _same(whole, run_tiny(*MP_SSL, f"federation.workers={workers}", folder=tmp_path / str(workers)))


def test_control_c_and_then_on_with_another_number(run_tiny: Runner, tmp_path: Path) -> None:
    server = os.getpid()

    def stopped(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and message.content["config"]["round"] == 2:  # type: ignore[index]
            os.kill(server, signal.SIGINT)
            time.sleep(60)  # the worker is told to drop it
        return app(message, context)

    whole = run_tiny(*MP_SSL, folder=tmp_path / "whole")
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_tiny(*MP_SSL, "federation.workers=2", folder=tmp_path / "cut", client=stopped)
    assert time.monotonic() - started < 55
    assert read_manifest(tmp_path / "cut")["status"] == "interrupted"
    assert read_history(tmp_path / "cut")[-1].number == 1
    _same(whole, run_tiny(*MP_SSL, "federation.workers=3", folder=tmp_path / "cut", resume=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_that_another_thread_takes_cuts_no_message(number: signal.Signals) -> None:
    """Of a notebook or a test's worker: with this thread's mask alone Ctrl-C cut a message, and both ends waited for ever."""

    def heard(*_: object) -> None:
        raise KeyboardInterrupt

    def write() -> None:
        with whole():
            os.kill(os.getpid(), number)
            for step in range(3):
                time.sleep(0.01)
                steps.append(step)

    steps: list[int] = []
    before, over = signal.signal(number, heard), threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            write()
        assert len(steps) == 3
        assert signal.getsignal(number) is heard
    finally:
        over.set()
        other.join()
        signal.signal(number, before)


def test_a_lost_worker_is_said_and_nothing_is_lost_with_it(run_tiny: Runner, tmp_path: Path) -> None:
    def killed(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and message.content["config"]["round"] == 3:  # type: ignore[index]
            os.kill(os.getpid(), signal.SIGKILL)
        return app(message, context)

    whole = run_tiny(*MP_SSL, folder=tmp_path / "whole")
    with pytest.raises(UserError, match=r"federation\.workers=2: a worker process ended \(exit code -9\)"):
        run_tiny(*MP_SSL, "federation.workers=2", folder=tmp_path / "cut", client=killed)
    assert read_manifest(tmp_path / "cut")["status"] == "failed"
    _same(whole, run_tiny(*MP_SSL, folder=tmp_path / "cut", resume=True))


def test_a_stopped_worker_is_not_waited_for_without_end(run_tiny: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"

    def stopping(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == 0:
            pid.write_text(str(os.getpid()), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGSTOP)
        return app(message, context)

    monkeypatch.setattr("mpssl_fed.federation.engines.workers.SILENT_S", 0.5)
    with pytest.raises(UserError, match=r"a worker process \(\d+\) has said nothing for 0\.5 s"):
        run_tiny("federation.workers=2", "federation.deadline_s=2", client=stopping)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text(encoding="utf-8")), 0)


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt()])
def test_an_app_that_ends_its_process_is_waited_for_by_nobody(raised: BaseException, run_tiny: Runner) -> None:
    """And it is not said to have wanted memory."""

    def ending(_message: Message, _context: Context) -> Message:
        raise raised

    with pytest.raises(UserError, match=r"a worker process ended \(exit code [13]\); go on with resume"):
        run_tiny("federation.workers=2", client=ending)


def test_what_a_worker_cannot_write_is_said_as_in_one_process(run_tiny: Runner, tmp_path: Path) -> None:
    """Rather than as a worker that was lost, for want of memory."""

    def in_the_way(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            folder = tmp_path / "cut" / "sites"
            with suppress(OSError):
                folder.rmdir()
            folder.touch()
        return app(message, context)

    with pytest.raises(OSError, match=r"sites"):
        run_tiny(*MP_SSL, "federation.workers=2", folder=tmp_path / "cut", client=in_the_way)


def test_a_full_disk_is_said_by_another_process_as_it_is() -> None:
    error = FullDiskError(Path("state"))
    told = pickle.loads(pickle.dumps(error))
    assert (str(told), told.strerror) == (str(error), error.strerror)


def test_a_worker_lost_within_an_answer_is_said_too() -> None:
    """One that the pipe takes in pieces, since it is larger than a place on the shelf: half of it is there."""

    def long(message: Message, context: Context) -> Message:
        return Message(RecordDict({"config": ConfigRecord({"long": bytes(PLACE + 1)})}), reply_to=message)

    grid = WorkerGrid(long, [{}], workers=1, held=None)
    try:
        number = next(iter(grid.push_messages([Message(RecordDict(), 1, "train", ttl=PATIENCE_S)])))
        (worker,) = grid._workers
        wait_for(worker.pipe.poll, "the answer's begin")
        assert worker.process.pid
        os.kill(worker.process.pid, signal.SIGKILL)
        with pytest.raises(UserError, match=r"federation\.workers=1: a worker process ended \(exit code -9\)"):
            list(grid.pull_messages([number]))
    finally:
        grid.end()


def test_a_worker_lost_while_nobody_waits_for_it_is_said_too() -> None:
    """Between two rounds: what is sent to it next finds no reader."""
    grid = WorkerGrid(app, [{}], workers=1, held=None)
    try:
        (worker,) = grid._workers
        worker.process.kill()
        worker.process.join()
        said = r"federation\.workers=1: a worker process ended \(exit code -9\)"
        with pytest.raises(UserError, match=said):
            list(grid.push_messages([Message(RecordDict(), 1, "train", ttl=PATIENCE_S)]))
        with pytest.raises(UserError, match=said):
            grid.flush()
    finally:
        grid.end()


def test_what_a_site_raises_is_counted_and_a_late_one_is_missing(run_tiny: Runner, tmp_path: Path) -> None:
    def bad(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            if context.node_config["partition-id"] == 0:
                raise RuntimeError("boom")
            if context.node_config["partition-id"] == 1:
                time.sleep(600)  # until it is told to drop it
        return app(message, context)

    words = ("federation.rounds=1", "federation.deadline_s=8", "federation.workers=3")
    run = run_tiny(*words, client=bad, folder=tmp_path / "run")
    record = read_history(run.folder)[1]
    assert (record.asked, record.answered, record.missing, record.rejected) == (3, 1, 1, {"app-raised": 1})


class Unsent(RecordDict):
    """No process can be sent it."""

    def __reduce__(self) -> str:
        raise ValueError("unsent")


ODD = {0: lambda _: None, 1: lambda _: "text", 2: lambda _: Message(RecordDict(), 1, "train")}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_no_reply_is_its_apps_error(workers: int, run_tiny: Runner) -> None:
    """Of any number of workers; the last of these ended the thread that answers, and the server waited for ever."""

    def odd(message: Message, context: Context) -> Message:
        site = context.node_config["partition-id"]
        if message.metadata.message_type == "train" and site in ODD:
            return ODD[site](message)  # type: ignore[return-value]
        if message.metadata.message_type == "train" and site == 3 and workers > 1:
            return Message(Unsent(), reply_to=message)
        return app(message, context)

    words = ("federation.rounds=1", "federation.sites=6", f"federation.workers={workers}")
    record = read_history(run_tiny(*words, client=odd).folder)[1]
    refused = 3 + (workers > 1)
    assert (record.asked, record.answered, record.rejected) == (6, 6 - refused, {"app-raised": refused})


def test_a_site_that_never_ends_holds_up_neither_a_round_nor_the_run(run_tiny: Runner, tmp_path: Path) -> None:
    def stuck(message: Message, context: Context) -> Message:
        while message.metadata.message_type == "train" and context.node_config["partition-id"] == 1:
            time.sleep(0.1)
        return app(message, context)

    words = ("federation.deadline_s=3", "federation.workers=3", "federation.rounds=2")
    run = run_tiny(*MP_SSL[:1], *words, client=stuck, folder=tmp_path / "run")
    assert [(record.answered, record.missing) for record in read_history(run.folder)[1:]] == [(2, 1), (2, 1)]
    assert [SiteState(run.sites / site).rounds(run.run_id) for site in "012"] == [[1, 2], [], [1, 2]]


def test_answers_that_come_too_late_make_no_others_wait() -> None:
    def slow(message: Message, context: Context) -> Message:
        if message.metadata.ttl < 1:
            time.sleep(0.3)
        return Message(RecordDict(), reply_to=message)

    grid = WorkerGrid(slow, [{}], workers=1, held=None)
    try:
        for _ in range(2 * READY):
            grid.push_messages([Message(RecordDict(), 1, "train", ttl=0.2)])
            time.sleep(0.35)
        number = next(iter(grid.push_messages([Message(RecordDict(), 1, "train", ttl=PATIENCE_S)])))
        found: list[Message] = []
        wait_for(lambda: found or found.extend(grid.pull_messages([number])) or found, "the answer")
        assert found[0].metadata.reply_to_message_id == number
    finally:
        grid.end()


def test_one_that_is_told_to_drop_its_work_before_it_has_begun_lives() -> None:
    grid = WorkerGrid(lambda message, _: Message(RecordDict(), reply_to=message), [{}], workers=1)
    try:
        grid.interrupt()  # as a Ctrl-C in the first moment would
        grid.flush()
        assert grid._workers[0].process.is_alive()
        (number,) = grid.push_messages([Message(RecordDict(), 1, "train", ttl=PATIENCE_S)])
        wait_for(lambda: list(grid.pull_messages([number])), "the answer")
    finally:
        grid.end()


def test_a_process_that_cannot_be_copied_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    left, fork = [2], os.fork

    def forked() -> int:
        left[0] -= 1
        if left[0] < 0:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", forked)
    with pytest.raises(UserError, match=r"federation\.workers=3: no process can be copied \(.*unavailable\); take fewer"):
        WorkerGrid(app, [{}], workers=3)


def test_ledgers_are_kept_by_workers(run_tiny: Runner) -> None:
    private = ["privacy.epsilon=8", "privacy.public_size=100", "privacy.delta=1e-4", "privacy.sample_rate=0.1"]
    run = run_tiny("federation.workers=2", *private)
    for site in ("0", "1", "2"):
        assert set(Ledger(run.sites / site / "ledger.sqlite").spent("mnist-5k").runs) == {run.run_id}


def test_how_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(workers: int | None, sites: int = 3) -> int:
        federation = TINY["federation"] | {"sites": sites, "workers": workers}
        return workers_of(from_mapping(TINY | {"federation": federation}))[0]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert [of(None), of(1), of(2), of(9)] == [1, 1, 2, 3]  # from Python one, unless it is asked for more
    with on_command_line():
        assert [of(None), of(None, sites=20), of(1)] == [3, 8, 1]
        assert workers_of(from_mapping(TINY | {"runtime": {"threads": 2}})) == (1, "")
    found: list[tuple[int, str]] = []
    asked = from_mapping(TINY | {"federation": TINY["federation"] | {"workers": 2}})
    thread = threading.Thread(target=lambda: found.append(workers_of(asked)))
    thread.start()
    thread.join()
    assert found == [
        (1, "federation.workers=2: a process can be copied from its main thread alone; the sites train in this process")
    ]


def test_torch_with_threads_trains_in_one_process(run_tiny: Runner) -> None:
    """A copy of a process that has them would wait for them for ever."""
    words = ("federation.rounds=1", "runtime.threads=2", "federation.workers=2")
    assert workers_of(from_mapping(TINY | {"federation": {"workers": 2}, "runtime": {"threads": 2}})) == (
        1,
        "federation.workers=2: a process whose torch has threads (runtime.threads=2) cannot be copied; "
        "the sites train in this process",
    )
    assert [record.answered for record in read_history(run_tiny(*words).folder)[1:]] == [3]


def test_the_number_is_no_part_of_what_is_computed() -> None:
    one, other = (from_mapping(TINY | {"federation": TINY["federation"] | {"workers": n}}) for n in (1, 2))
    assert one.sha256() == other.sha256()
