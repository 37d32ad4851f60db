"""The command ``simulate``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def simulate(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of a shipped config such as 'demo'.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
    sites: Annotated[int | None, typer.Option(help="federation.sites")] = None,
    rounds: Annotated[int | None, typer.Option(help="federation.rounds")] = None,
    backend: Annotated[str | None, typer.Option(help="inprocess or ray")] = None,
    output: Annotated[Path | None, typer.Option(help="Run directory; default runs/CONFIG-STEM.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the run directory.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run directory if it exists.")] = False,
) -> None:
    """Simulate a federation of sites on this machine."""
    from mpssl_fed.api import simulate as run_simulation
    from mpssl_fed.cli.live import complain, progress, resumable
    from mpssl_fed.report.diagnosis import diagnose
    from mpssl_fed.report.run_report import report_run

    shorthands = {"federation.sites": sites, "federation.rounds": rounds, "federation.backend": backend, "output.dir": output}
    words = [*(overrides or []), *(f"{key}={value}" for key, value in shorthands.items() if value is not None)]
    command = shlex.join(["mpssl-fed", *sys.argv[1:]])
    with resumable():
        run = run_simulation(config, *words, resume=resume, overwrite=overwrite, progress=progress(), command=command)
    diagnose(run.folder)
    print(f"{run.config.data.held_out} accuracy {run.accuracy:.4f}   {report_run(run.folder, complain)}")
