"""The cells of a study on a Ray cluster, for a study that one machine cannot hold."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.federation.engines.simulation import short_folder_for_ray
from mpssl_fed.method_version import METHOD_VERSION
from mpssl_fed.study.cell import Task, run_cell
from mpssl_fed.study.measured import failed_row
from mpssl_fed.study.pool import ONE_THREAD
from mpssl_fed.study.results import Row


def run_on_ray(tasks: Sequence[Task], workers: int) -> Generator[Row]:
    """Yield the row of each task as it ends, at most ``workers`` at once, one CPU each. ``tasks`` may grow while rows are read.

    The cluster is the one that ``RAY_ADDRESS`` names, else a local one that is started here and ended at the end. The
    study's folder must be on a disk that all nodes share. UserError when Ray is not installed or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--executor ray needs the package ray: pip install 'mpssl-fed[ray]'") from error
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 lets any other process on the machine starve the cells
    ours = not ray.is_initialized()
    with short_folder_for_ray():
        yield from _run(ray, tasks, workers, ours)


def _run(ray: Any, tasks: Sequence[Task], workers: int, ours: bool) -> Generator[Row]:
    if ours:
        _connect(ray, workers)
    remote = ray.remote(num_cpus=1, max_retries=0)(run_cell)
    begun = 0
    running: dict[Any, Task] = {}
    try:
        while begun < len(tasks) or running:
            while begun < len(tasks) and len(running) < workers:
                running[remote.remote(tasks[begun])] = tasks[begun]
                begun += 1
            for reference in ray.wait(list(running), num_returns=1)[0]:
                task = running.pop(reference)
                try:
                    yield ray.get(reference)
                except ray.exceptions.RayError as error:  # the worker or its node died, or memory ran out
                    yield failed_row(task.cell, METHOD_VERSION, f"Ray: {type(error).__name__}: {error}".splitlines()[0])
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def _connect(ray: Any, workers: int) -> None:
    address = os.environ.get("RAY_ADDRESS")
    cpus = {} if address else {"num_cpus": workers}
    try:
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            runtime_env={"env_vars": ONE_THREAD}, **cpus,
        )  # fmt: skip
    except ConnectionError as error:
        raise UserError(f"--executor ray: no cluster at RAY_ADDRESS={address}: {error}") from error
