"""The command ``watch``: a live page of a run, a study or a site on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command("watch")
def watch_command(
    folder: Annotated[Path, typer.Argument(help="Run or study directory, or the state folder of a site that you own.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    socket: Annotated[
        Path | None, typer.Option(help="Of a site: its daemon's Unix socket, where that is not in the folder.")
    ] = None,
) -> None:
    """Serve a page that follows a run, a study or a site while it goes on; until Ctrl-C, on this machine, read-only.

    The address that it prints holds a token: whoever has it, and reaches this machine's loopback, can read the page.
    """
    from mpssl_fed.livepage.place import Latest, view_of
    from mpssl_fed.livepage.server import serve

    pieces = Latest(view_of(folder, socket), folder.absolute().name)
    try:
        serve(pieces, port, lambda address: typer.echo(f"{address}\nCtrl-C ends it."))
    except KeyboardInterrupt:
        return
