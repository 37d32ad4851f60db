"""The command ``dossier``: a run or a site on paper, for a data-protection officer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("dossier")
def dossier_command(
    folder: Annotated[Path, typer.Argument(help="Run directory, or the state folder of a deployed site.")],
    policy: Annotated[
        Path | None, typer.Option(help="Of a site: its policy (YAML), for what it allows and what is left of its budget.")
    ] = None,
    head: Annotated[Path | None, typer.Option(help="Of a site: the head file of its ledger, where that moved.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write into; default: the run's or the site's own.")] = None,
) -> None:
    """Write dossier.html and dossier.md for a data-protection officer, and README.md, the card of a run's model.

    Every line names the file that it was read from.
    """
    from mpssl_fed.dossier.subject import Subject
    from mpssl_fed.dossier.write import write_dossier

    written = write_dossier(Subject(folder, policy, head), out)
    for note in written.notes:
        typer.echo(note, err=True)
    for file in (written.page, written.markdown, written.card):
        if file is not None:
            typer.echo(str(file))
