"""One writer a folder: a second run, resume, overwrite or study is refused while the first lives, and not a moment longer."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mpssl_fed
from mpssl_fed.config import Config
from mpssl_fed.deployment.rehearsal import DYING_MOMENTS
from mpssl_fed.errors import UserError
from mpssl_fed.runs.lock import LOCK, holding, refuse_held
from mpssl_fed.runs.run_directory import RunDirectory, open_run
from mpssl_fed.runs.where import refuse_occupied
from mpssl_fed.study.run import run_study
from tests.patience import PATIENCE_S
from tests.study.runs import plan_of

HOLD = """
import sys
from pathlib import Path
from mpssl_fed.runs.lock import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold ``folder`` for the block."""
    program = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def listing(folder: Path) -> dict[str, bytes]:
    """Return every file below ``folder`` but the lock, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != LOCK}


def test_a_folder_that_another_process_writes_is_left_alone(run_tiny: Callable[..., RunDirectory], tmp_path: Path) -> None:
    run = run_tiny("federation.rounds=1")
    before = listing(run.folder)
    with another_process(run.folder) as process:
        for flags in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(UserError, match=rf"another run or study is writing there \(process {process.pid}\)"):
                mpssl_fed.simulate(run.config, output=run.folder, **flags)
        with pytest.raises(UserError, match="another run or study is writing there"):
            run_study(plan_of(tmp_path / "study", grid={"method.name": ["base"]}, seeds=1), run.folder, 1)
        assert listing(run.folder) == before
        process.send_signal(signal.SIGKILL)
        process.wait()
    mpssl_fed.simulate(run.config, output=run.folder, resume=True)  # a lock dies with its process


def test_a_process_that_is_dying_is_waited_for(tmp_path: Path) -> None:
    """As at the end of a deployment, whose sites' ledgers would be lost if they were not kept then."""
    with another_process(tmp_path) as process:
        with pytest.raises(UserError, match="another run or study is writing there"), holding(tmp_path):
            pass
        threading.Timer(0.5, process.kill).start()
        with holding(tmp_path, DYING_MOMENTS):
            assert process.wait(PATIENCE_S) == -signal.SIGKILL


def test_an_empty_folder_that_is_held_is_not_taken(tiny: Callable[..., Config], tmp_path: Path) -> None:
    with another_process(tmp_path / "run"), pytest.raises(UserError, match="another run or study is writing there"):
        mpssl_fed.simulate(tiny(), output=tmp_path / "run")
    assert listing(tmp_path / "run") == {}
    plan = plan_of(tmp_path / "file", grid={"method.name": ["base"]}, seeds=1)
    with another_process(tmp_path / "study"), pytest.raises(UserError, match="another run or study is writing there"):
        run_study(plan, tmp_path / "study", 1)


def test_two_threads_are_two_writers_and_one_thread_is_one(tmp_path: Path) -> None:
    said: list[str] = []

    def other() -> None:
        for attempt in (lambda: refuse_held(tmp_path), lambda: holding(tmp_path).__enter__()):
            try:
                attempt()
            except UserError as error:
                said.append(str(error))

    with holding(tmp_path):
        with holding(tmp_path):
            refuse_held(tmp_path)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(said) == 2
    refuse_held(tmp_path)
    with holding(tmp_path):
        pass


LOOK = """
import sys
from pathlib import Path
from mpssl_fed.errors import UserError
from mpssl_fed.runs.lock import refuse_held
print("looks", flush=True)
while True:
    try:
        refuse_held(Path(sys.argv[1]))
    except UserError:
        pass
"""


def test_who_looks_whether_a_folder_is_held_keeps_nobody_out(tmp_path: Path) -> None:
    with holding(tmp_path):
        pass
    with subprocess.Popen([sys.executable, "-c", LOOK, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "looks\n"
        try:
            for _ in range(300):
                with holding(tmp_path):
                    pass
        finally:
            process.kill()


def test_two_names_of_a_folder_are_one(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with another_process(tmp_path / "link"), pytest.raises(UserError, match="another run or study"), holding(tmp_path / "run"):
        pass


def test_refusing_writes_nothing(tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError):
            mpssl_fed.simulate(tiny(), output=tmp_path, **flags)
        with pytest.raises(UserError):
            refuse_occupied(tmp_path, **flags)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_lock_that_is_a_link_is_not_followed(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = open_run(tiny(), tmp_path / "run")
    (tmp_path / "precious").write_text("x")
    (run.folder / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="is a link"), holding(run.folder):
        pass
    assert (tmp_path / "precious").read_text() == "x"
