"""The command ``simulate``."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from mpssl_fed.cli.options import ConfigName, Output, Overrides, Overwrite, Resume, Rounds, Sites, folder_given, words
from mpssl_fed.errors import UserError, nearest

app = typer.Typer()
BACKENDS = ("inprocess", "ray")


@app.command()
def simulate(
    config: ConfigName,
    overrides: Overrides = None,
    sites: Sites = None,
    rounds: Rounds = None,
    backend: Annotated[str | None, typer.Option(help="inprocess or ray")] = None,
    output: Output = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a federation of sites on this machine."""
    from mpssl_fed.api import simulate as run_simulation
    from mpssl_fed.cli.live import complain, progress, resumable

    if backend is not None and backend not in BACKENDS:
        instead = " `mpssl-fed deploy` runs real processes." if backend == "deployment" else nearest(backend, BACKENDS)
        raise UserError(f"--backend {backend}: want {' or '.join(BACKENDS)}.{instead}")
    folder_given(output)
    given = words(overrides, sites=sites, rounds=rounds, backend=backend, output=output)
    command = shlex.join(["mpssl-fed", *sys.argv[1:]])
    with resumable():
        run = run_simulation(config, *given, resume=resume, overwrite=overwrite, progress=progress(), command=command)

    from mpssl_fed.report.diagnosis import diagnose
    from mpssl_fed.report.run_report import last_line, report_run
    from mpssl_fed.runs.lock import holding

    with holding(run.folder):
        diagnose(run.folder)
        page = report_run(run.folder, complain)
    print(last_line(run.folder, page))
