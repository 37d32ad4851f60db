"""The ServerApp of ``flwr run``: resolves the config, runs the rounds, writes the report. No logic of its own."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mpssl_fed.federation.engines.flower_run import serve_flower_run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Serve one run."""
    folder = serve_flower_run(grid, context, Path(__file__).parents[1])
    from mpssl_fed.report.run_report import last_line, report_run  # here: it brings in what draws plots

    print(last_line(folder, report_run(folder, print)), flush=True)
