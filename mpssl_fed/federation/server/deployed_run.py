"""The server's side of a run over deployed sites: what it tells them of its config, and how it starts or goes on."""

from __future__ import annotations

from pathlib import Path

from flwr.serverapp import Grid

from mpssl_fed.config import Config
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.server.deployed_grid import DeployedGrid
from mpssl_fed.federation.server.rounds import Job, serve
from mpssl_fed.models.efficientnet import NAME as EFFICIENTNET
from mpssl_fed.runs.lock import holding
from mpssl_fed.runs.progress import Lines
from mpssl_fed.runs.run_directory import open_run
from mpssl_fed.runs.where import refuse_occupied


def serve_deployment(grid: Grid, config: Config, flower_run: int) -> Path:
    """Serve one run over the sites that join; those that ``federation.sites`` counts are waited for until the join deadline.

    With ``output.resume`` the run in the run directory goes on from its last checkpoint. UserError, also written into the
    manifest, when too few sites join, none answers or the disk is full; a disk too full
    for that leaves the text to Flower's own record of the run. Returns the run directory.
    """
    config = with_task(config)
    folder = Path(config.output.dir or Path("runs") / f"flwr-{flower_run}")
    flags = {"resume": config.output.resume, "overwrite": config.output.overwrite}
    refuse_occupied(folder, **flags)
    with holding(folder):
        run = open_run(config, folder, **flags, command="flwr run")
        run.update_manifest(error=None, flower_run=str(flower_run))
        try:
            serve(DeployedGrid(grid), Job(run, Lines(), expected_sites=config.federation.sites, travels=for_sites(run.config)))
        except (UserError, OSError) as error:
            run.last_words(error=str(error))
            raise
    return run.folder


def with_task(config: Config) -> Config:
    """Return ``config`` with the task spelt out: deployed sites know nothing of the server's data set."""
    return config.model_copy(update={"data": config.data.model_copy(update={"task": parts.task(config)})})


def for_sites(config: Config) -> Config:
    """Return what travels to deployed sites: no path, no plug-in option, nothing about the server's disk.

    UserError where the sites would train another model than the server's: a body from a file that stays frozen never travels, and
    of efficientnet-lite0 the normalisation's statistics never do. What each site's own package holds is fine.
    """
    if config.model.pretrained is not None and config.model.name == EFFICIENTNET:
        raise UserError(
            f"model.pretrained={config.model.pretrained}: deployed sites start {EFFICIENTNET} from the weights of their installed "
            "package (extra [imagenet]), never from a file of this machine; leave model.pretrained out"
        )
    if config.model.pretrained is not None and config.model.trainable != "all" and not config.warm_start.of_body:
        raise UserError(
            f"model.pretrained={config.model.pretrained} with model.trainable={config.model.trainable}: the frozen body stays on "
            "this machine, so deployed sites would train on another one; set model.trainable=all, or warm_start.part=body"
        )
    data = config.data.model_copy(update={"root": None, "download": False, "subjects": None, "white_level": None, "window": None})
    generator = config.generator.model_copy(update={"path": None, "foundation": None})
    model = config.model.model_copy(update={"pretrained": None})
    return config.model_copy(update={"data": data, "generator": generator, "model": model})
