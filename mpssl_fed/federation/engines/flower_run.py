"""A run that Flower starts (``flwr run``): the ServerApp's side, from run config to run directory."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid

from mpssl_fed import config as configs
from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.federation.engines.samples import write_labels, write_samples
from mpssl_fed.federation.engines.simulation import preflight
from mpssl_fed.federation.server.collect import Roster
from mpssl_fed.federation.server.deployed_run import serve_deployment
from mpssl_fed.federation.server.rounds import Job, serve
from mpssl_fed.federation.site.client import site_folder
from mpssl_fed.runs.lock import holding
from mpssl_fed.runs.progress import Lines
from mpssl_fed.runs.run_directory import open_run
from mpssl_fed.runs.where import refuse_occupied
from mpssl_fed.runs.written import in_words

NUMBERS = {"num-server-rounds": "federation.rounds", "local-steps": "federation.local_steps"}
"""Keys of the run config by the names that Flower's own templates give them -> keys of ours; 0 leaves what the config says."""


def serve_flower_run(grid: Grid, context: Context, bundle: Path) -> Path:
    """Serve the run whose ``config`` (a path in the bundle) and ``overrides`` (``key=value`` words) are in the run config.

    The nodes that Flower gives are the sites. The run directory is ``output.dir``, else ``runs/flwr-RUNID`` where the
    SuperLink was started; it is returned. Raises UserError for bad input.
    """
    lines = Lines()
    config = resolve(context, bundle)
    if config.federation.backend == "deployment":
        return serve_deployment(grid, config, context.run_id)
    simulated = _simulated_nodes(grid, config)
    if simulated:
        lines.write(
            f"{simulated} sites: the nodes that Flower gives. Another number: "
            'flwr run . local --federation-config "num-supernodes=N client-resources-num-cpus=1"'
        )
        federation = config.federation.model_copy(
            update={"sites": simulated, "min_sites": min(config.federation.min_sites, simulated)}
        )
        config = config.model_copy(update={"federation": federation})
        preflight(config)
    folder = Path(config.output.dir or Path("runs") / f"flwr-{context.run_id}")
    refuse_occupied(folder, overwrite=config.output.overwrite)
    with holding(folder):
        run = open_run(config, folder, overwrite=config.output.overwrite, command="flwr run")
        if run.kept:
            lines.write(f"kept in {folder}, as no run wrote it: {in_words(run.kept)}")
        if simulated:
            write_labels(run)
        serve(grid, Job(run, lines, expected_sites=simulated or None))
        here = site_folder(context.run_id)
        if simulated and here.is_dir():
            shutil.copytree(here, run.sites, dirs_exist_ok=True)
            shutil.rmtree(here)
            write_samples(run)
    return run.folder


def resolve(context: Context, bundle: Path) -> Config:
    """Return the config that the run config names: ``config``, ``overrides`` and the numbers that Flower's users expect.

    UserError names the key that is wrong, or a number that ``overrides`` set too.
    """
    values = {key: context.run_config.get(key, "") for key in ("config", "overrides")}
    for key, value in values.items():
        if not isinstance(value, str):
            raise UserError(f"run config '{key}'={value!r}: want a string; quote it: -c \"{key}='...'\"")
    path, words = str(values["config"]) or "configs/demo.yaml", shlex.split(str(values["overrides"]))
    for key, ours in NUMBERS.items():
        number = context.run_config.get(key, 0)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise UserError(f"run config '{key}'={number!r}: want a whole number, 0 for what the config says: -c {key}=3")
        if number and any(word.startswith(f"{ours}=") for word in words):
            raise UserError(f"run config '{key}'={number} and 'overrides' both set {ours}; give one of them")
        words += [f"{ours}={number}"] if number else []
    shipped = bundle / path
    return configs.load(shipped if shipped.is_file() else path, words)


def _simulated_nodes(grid: Grid, config: Config) -> int:
    """Return the number of sites of a Flower simulation, 0 for a deployment."""
    roster = Roster(grid)
    roster.join(None, config.federation.min_sites, config.federation.join_deadline_s)
    return roster.simulated
