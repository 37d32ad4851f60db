"""One run of simulated sites, start to finish, on either engine."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from mpssl_fed.caller import Shared
from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.engines import inprocess
from mpssl_fed.federation.engines.samples import write_labels, write_samples
from mpssl_fed.federation.engines.workers import WorkerGrid, workers_of
from mpssl_fed.federation.secure_messages import ACTION
from mpssl_fed.federation.server.collect import Stopped
from mpssl_fed.federation.server.reading import opener
from mpssl_fed.federation.server.rounds import Job, serve
from mpssl_fed.federation.server.strategy import STRATEGIES
from mpssl_fed.federation.site.held import Held, can_be_held
from mpssl_fed.federation.site.site import build_site_learner
from mpssl_fed.federation.whole import subjects_of
from mpssl_fed.files import short_folder
from mpssl_fed.runs.progress import Progress
from mpssl_fed.runs.run_directory import RunDirectory
from mpssl_fed.runs.tracking import require_trackers

LONGEST_FOR_RAY = 38
"""Bytes: ``/ray/session_DATE_TIME_PID/sockets/plasma_store`` follows, of at most 68."""

AppFactory = Callable[[], ClientApp]
"""An importable function that returns the ClientApp: it is called in each worker process."""


ENGINES = ("inprocess", "ray")


def preflight(config: Config) -> None:
    """Raise UserError now for whatever would make the sites fail later: names, files, shares, torn subjects, privacy,
    a missing Ray or tracker."""
    torch.set_num_threads(config.runtime.threads)
    parts.device(config)
    if config.federation.backend == "ray" and importlib.util.find_spec("ray") is None:
        raise UserError("federation.backend=ray: Ray is not installed; pip install 'mpssl-fed[ray]', or use backend inprocess")
    require_trackers(config)
    STRATEGIES[config.federation.strategy.name]
    parts.dataset(config)
    empty = [site for site, share in enumerate(parts.shares(config)) if not len(share)]
    if empty and not config.privacy.on:  # under differential privacy a site without images answers like any other
        raise UserError(
            f"sites {empty[:8]} hold no labelled image with data.partition={config.data.partition.name}; "
            "lower federation.sites, raise data.labels_per_class or set data.partition.min_per_site=1"
        )
    subjects_of(config)
    build_site_learner(config, parts.simulated(config, 0), 0)


def simulate(run: RunDirectory, client_app: AppFactory, progress: Progress) -> None:
    """Run, or continue, ``run`` on the backend of its config and write everything a run directory holds.

    Call :func:`preflight` first. KeyboardInterrupt passes through with the last round's checkpoint on disk.
    """
    write_labels(run)
    for line in parts.dataset(run.config).skipped.lines():
        progress.note(line)
    job = Job(run, progress, expected_sites=run.config.federation.sites)
    with _QUIET_FLOWER.held(), _without_earlier_objects():
        {"inprocess": _inprocess, "ray": _ray}[run.config.federation.backend](job, client_app)
    write_samples(run)


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Keep Flower's chatter (a line per round, notices of deprecation) out of the progress; its errors still show."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


_QUIET_FLOWER = Shared(_quiet_flower)


@contextmanager
def _without_earlier_objects() -> Iterator[None]:
    """Let the garbage collector leave alone what was there before: going through all of torch takes 0.15 s, and in a worker copies
    the pages that it shares with the others."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _server_app(job: Job) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
        with suppress(Stopped):
            serve(grid, job)

    return app


def _inprocess(job: Job, client_app: AppFactory) -> None:
    sites = job.run.config.federation.sites
    folder = str(job.run.sites.absolute())
    nodes: list[UserConfig] = [{"partition-id": site, "num-partitions": sites, "state-dir": folder} for site in range(sites)]
    holds = can_be_held(job.run.config)
    workers, why = workers_of(job.run.config)
    if why:
        job.progress.note(why)
    if workers == 1:
        held = job.hold = Held(job.run.sites) if holds else None
        inprocess.run(_server_app(job), client_app(), nodes, held=held)
        return
    job.run.sites.mkdir(exist_ok=True)
    grid = WorkerGrid(client_app(), nodes, workers, job.run.sites if holds else None, opener(job.run.config))
    job.hold = grid if holds else None
    try:
        inprocess.serve(_server_app(job), grid)
    finally:
        grid.interrupt()
        grid.end()


def _ray(job: Job, client_app: AppFactory) -> None:
    from flwr.simulation.run_simulation import run_simulation

    config = job.run.config
    device = parts.device(config)
    workers = min(os.cpu_count() or 1, config.federation.sites)
    backend: dict[str, Any] = {
        "client_resources": {"num_cpus": 1, "num_gpus": 1 / workers if device.type == "cuda" else 0.0},
        "init_args": {"include_dashboard": False, "num_cpus": workers, "logging_level": logging.ERROR, "log_to_driver": True},
    }
    before = os.environ.get("PYTHONPATH")
    try:
        with short_folder_for_ray(), _stopped_by_control_c(job.stop):
            run_simulation(
                server_app=_server_app(job),
                client_app=_with_state(client_app, job.run.sites.absolute()),
                num_supernodes=config.federation.sites,
                backend_config=backend,
            )
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


@contextmanager
def short_folder_for_ray() -> Iterator[None]:
    """Let a Ray that starts here have its sockets in a folder with a short path: below a long TMPDIR it ends with a traceback.

    UserError for a RAY_TMPDIR of the user's own that is too long.
    """
    why = "and Ray's sockets below it would pass the 107 bytes of a Unix socket's path"
    own = os.environ.get("RAY_TMPDIR")
    if own is not None:
        if len(os.fsencode(own)) > LONGEST_FOR_RAY:
            raise UserError(f"RAY_TMPDIR={own}: {len(os.fsencode(own))} bytes long, {why}; want at most {LONGEST_FOR_RAY}")
        yield
        return
    with short_folder(LONGEST_FOR_RAY, why) as folder:
        os.environ["RAY_TMPDIR"] = str(folder)
        try:
            yield
        finally:
            os.environ.pop("RAY_TMPDIR", None)


@contextmanager
def _stopped_by_control_c(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C end the round loop, which runs in a thread, before Ray goes away under it; raise it afterwards."""
    if threading.current_thread() is not threading.main_thread():
        try:
            yield
        finally:
            stop.set()
        return

    def ask_to_stop(_number: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one ends it at once

    before = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        stopped = stop.is_set()
        stop.set()
    if stopped:
        raise KeyboardInterrupt


def _with_state(client_app: AppFactory, folder: Path) -> ClientApp:
    """Return the same app for Ray's workers, whose node config has no room for the folder of the sites' state."""
    app = ClientApp()

    def call(message: Message, context: Context) -> Message:
        context.node_config["state-dir"] = str(folder)
        return client_app()(message, context)

    app.train()(call)
    app.evaluate()(call)
    app.query()(call)
    app.query(ACTION)(call)
    return app
