"""The ServerApp of ``flwr run``: resolves the config and runs the rounds. No logic of its own."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mpssl_fed.federation.engines.flower_run import serve_flower_run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Serve one run."""
    serve_flower_run(grid, context, Path(__file__).parents[1])
