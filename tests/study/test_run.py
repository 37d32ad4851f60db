"""Studies that really run: worker processes, a killed study, a failing cell, a dying worker, Ctrl-C, rows from a table."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpssl_fed.errors import UserError
from mpssl_fed.study.cell import Task, run_cell
from mpssl_fed.study.folder import finished_rows, read_outcome, stored_row
from mpssl_fed.study.grid import Plan, load_study
from mpssl_fed.study.report.page import write_study_report
from mpssl_fed.study.result_table import read_csv
from mpssl_fed.study.results import Row
from mpssl_fed.study.run import run_study
from tests.patience import PATIENCE_S, wait_for
from tests.study.runs import plan_of, write_study

GRID = {"method.name": ["base"], "method.augment": ["weak", "half-strong"]}
COMMAND = [sys.executable, "-m", "mpssl_fed.cli", "study"]


def workers_of(pid: int) -> list[int]:
    """Return the spawned worker processes of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(") ", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in command:
            found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Two arms and three seeds on real digits."""
    return plan_of(tmp_path_factory.mktemp("plan"), grid=GRID, seeds=3, baseline={"method.augment": "weak"})


def test_a_cell_is_a_run_directory_with_its_report_and_row(tmp_path: Path, plan: Plan) -> None:
    cell = plan.cells[0]
    row = run_cell(Task.of(cell, tmp_path))
    folder = tmp_path / "cells" / cell.id
    assert row.finished, row.error
    assert row == stored_row(tmp_path, cell)
    have = {file.name for file in folder.iterdir()}
    assert {"config.yaml", "manifest.json", "metrics.jsonl", "model.safetensors", "report.html", "result.json", "sites"} <= have
    assert row.accuracy == json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["test_accuracy"]
    assert row.steps == 2 * 2 * 2  # sites, rounds, steps
    assert row.peak_memory_mb is None or 50 < row.peak_memory_mb < 20_000


@pytest.fixture
def two_gib_left() -> Iterator[None]:
    """Limit what this process may still allocate."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_cell_that_cannot_run_is_a_row_that_says_why(tmp_path: Path) -> None:
    grid = {"data.name": ["image-folder"], "data.root": [str(tmp_path / "none")], "method.name": ["base"]}
    row = run_cell(Task.of(plan_of(tmp_path, grid=grid, seeds=1).cells[0], tmp_path))
    assert not row.finished
    assert row.error is not None
    assert "none" in row.error


@pytest.mark.usefixtures("two_gib_left")
def test_a_cell_without_memory_is_a_row_that_says_what_to_lower(tmp_path: Path) -> None:
    huge = {"model.name": ["small-cnn"], "method.name": ["vic-gssl"], "method.batch": [10**8]}
    row = run_cell(Task.of(plan_of(tmp_path, grid=huge, seeds=1).cells[0], tmp_path))
    assert not row.finished
    assert row.error is not None
    assert "allocate memory" in row.error
    assert "Memory ran out: lower method.batch" in row.error


def test_killed_study_goes_on_and_a_dead_worker_costs_its_cell_alone(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One study, in four lives: killed, then run while a worker is killed, then run to the end, then run again."""
    file, output = (
        write_study(tmp_path, grid=GRID, seeds=3, baseline={"method.augment": "weak"}),
        tmp_path / "out",
    )
    assert load_study(file).cells == plan.cells
    first = subprocess.Popen([*COMMAND, str(file), "--output", str(output), "--workers", "2"], stdout=subprocess.DEVNULL)
    wait_for(lambda: list(output.glob("cells/*/result.json")))
    workers = workers_of(first.pid)
    assert len(workers) == 2
    with pytest.raises(UserError, match="another run or study is writing there"):
        run_study(plan, output, 1)
    first.kill()
    first.wait()
    wait_for(lambda: not any(alive(pid) for pid in workers))

    before = {path: path.stat().st_mtime_ns for path in output.glob("cells/*/result.json")}
    assert 0 < len(before) < len(plan.cells)

    def kill_a_worker() -> None:
        wait_for(lambda: workers_of(os.getpid()))
        os.kill(workers_of(os.getpid())[0], signal.SIGKILL)  # it is importing still, its first cell in hand

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    second = run_study(plan, output, 1)
    killer.join()
    assert len(second.rows) == len(plan.cells)
    assert len(second.failed) == 1
    assert "SIGKILL" in str(second.failed[0].error)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read_outcome(plan, output).failed == second.failed

    third = run_study(plan, output, 1)
    assert not third.failed
    assert len(third.finished) == len(plan.cells)
    page = write_study_report(third)
    stamps = {path: path.stat().st_mtime_ns for path in output.glob("cells/*/result.json")}
    with monkeypatch.context() as no_worker:
        no_worker.setattr(multiprocessing, "get_context", None)
        assert run_study(plan, output, 2).ordered == third.ordered
    assert stamps == {path: path.stat().st_mtime_ns for path in output.glob("cells/*/result.json")}
    assert read_outcome(plan, output).ordered == third.ordered
    assert page.is_file()

    # a resumed study has the very numbers of one that was never stopped
    cell = plan.cells[-1]
    alone = run_cell(Task.of(cell, tmp_path / "alone"))
    assert (alone.accuracy, alone.loss) == (third.rows[cell.sha256].accuracy, third.rows[cell.sha256].loss)

    # rows of the table stand for cells elsewhere
    table = output / "results.csv"
    assert set(read_csv(table, plan.cells, third.ordered[0].method_version)) == {cell.sha256 for cell in plan.cells}
    elsewhere = run_study(plan, tmp_path / "elsewhere", 1, from_csv=table)
    assert [row.accuracy for row in elsewhere.ordered] == [row.accuracy for row in third.ordered]
    assert not list((tmp_path / "elsewhere" / "cells").iterdir())
    write_study_report(elsewhere)
    assert (tmp_path / "elsewhere" / "results.csv").read_bytes() == table.read_bytes()


def test_control_c_keeps_what_is_finished_and_exits_130(tmp_path: Path) -> None:
    file, output = write_study(tmp_path, grid={"method.name": ["base"], "optim.lr": [0.01, 0.02, 0.03]}, seeds=9), tmp_path / "out"
    study = subprocess.Popen(
        [*COMMAND, str(file), "--output", str(output), "--workers", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: list(output.glob("cells/*/result.json")))
    os.killpg(study.pid, signal.SIGINT)
    said, _ = study.communicate(timeout=PATIENCE_S)
    assert study.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    plan = load_study(file)
    done = finished_rows(plan, output)
    assert 0 < len(done) < len(plan.cells)
    assert (output / "report.html").is_file()
    assert len((output / "results.csv").read_text().splitlines()) == 1 + len(done)


def test_a_row_whose_word_was_on_its_way_is_in_the_table(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tasks: list[Task], *_: object) -> Iterator[Row]:
        run_cell(tasks[0])
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("mpssl_fed.study.run._execute", interrupted)
    outcome = run_study(plan, tmp_path / "out", 1)
    assert outcome.interrupted
    assert [row.config_sha256 for row in outcome.ordered] == [plan.cells[0].sha256]


def test_a_folder_that_is_no_study_is_left_alone(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="exists and is no study"):
        run_study(plan, tmp_path, 1, overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        run_study(plan, tmp_path / "thesis.tex", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_results_of_another_method_version_are_run_again(tmp_path: Path, plan: Plan) -> None:
    cell = plan.cells[0]
    run_cell(Task.of(cell, tmp_path))
    result = tmp_path / "cells" / cell.id / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"method_version": 0}))
    (tmp_path / "logs" / f"{cell.id}.version").write_text("0")
    folder = tmp_path / "cells" / cell.id
    (folder / "checkpoints" / "best.json").write_text("stale")
    (folder / "notes.txt").write_text("the owner's")
    assert stored_row(tmp_path, cell) is None
    assert run_cell(Task.of(cell, tmp_path)).finished
    assert (folder / "checkpoints" / "best.json").read_text() != "stale"
    assert (folder / "notes.txt").read_text() == "the owner's"
    assert stored_row(tmp_path, cell) is not None
