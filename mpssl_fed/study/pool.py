"""Worker processes that run cells: spawned, reused, replaced when one dies, gone when the study's process is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mpssl_fed import environment
from mpssl_fed.method_version import METHOD_VERSION
from mpssl_fed.study.cell import Task, run_cell
from mpssl_fed.study.folder import log_file, stored_row
from mpssl_fed.study.measured import failed_row
from mpssl_fed.study.results import Row

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def run_in_processes(tasks: Sequence[Task], workers: int) -> Generator[Row]:
    """Yield the row of each task as it ends, running up to ``workers`` at once. ``tasks`` may grow while rows are read.

    A worker that dies makes its cell a failed one and is replaced. When the caller stops early (Ctrl-C included), the
    workers are ended at once: what they were at goes on from its last checkpoint next time.
    """
    begun = 0
    busy: list[_Worker] = []
    idle: list[_Worker] = []
    try:
        while True:
            while begun < len(tasks) and (idle or len(busy) < workers):
                busy.append(idle.pop().take(tasks[begun]) if idle else _Worker(tasks[begun]))
                begun += 1
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                row = worker.answer()
                busy.remove(worker)
                if worker.dead:
                    worker.end()
                else:
                    idle.append(worker)
                yield row
    finally:
        for worker in (*busy, *idle):
            worker.end()


class _Worker:
    """A process and the task it has."""

    def __init__(self, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=serve, args=(other,), daemon=True)
        with _environment(ONE_THREAD):
            self.process.start()
        other.close()  # so that the pipe closes when the worker dies
        self.dead = False
        self.take(task)

    def take(self, task: Task) -> _Worker:
        """Begin a task and return this worker."""
        self.task = task
        with suppress(OSError):  # it died while idle: the pipe then reads as closed, and answer() reports the task
            self.pipe.send(task)
        return self

    def answer(self) -> Row:
        """Return the task's row; a failed one when the process has died."""
        try:
            row: Row = self.pipe.recv()
        except (EOFError, OSError):
            self.dead = True
            self.process.join()
            done = stored_row(Path(self.task.output), self.task.cell)  # it may have died after the work was done
            return done or failed_row(self.task.cell, METHOD_VERSION, self._obituary())
        return row

    def end(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        self.process.close()

    def _obituary(self) -> str:
        code = self.process.exitcode or 0
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        hint = "; the system kills a process so when memory runs out" if how.endswith("(SIGKILL)") else ""
        log = log_file(Path(self.task.output), self.task.cell)
        return f"the worker process died with {how}{hint}. Its output is in {log.parent.name}/{log.name}"


def serve(pipe: Connection) -> None:
    """Run the tasks that arrive until the pipe closes. Entry point of a worker process."""
    environment.open_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the study's process ends its workers
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        row = run_cell(task)
        try:
            pipe.send(row)
        except OSError:  # the study was stopped while this cell ended: its result is on disk, nobody reads the pipe
            return


def _leave_with_parent() -> None:
    """End this process the moment the study's own is gone, so that a restarted study finds no one in its folders."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
