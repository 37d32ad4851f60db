"""The command ``doctor``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mpssl_fed.cli.options import AsJson

app = typer.Typer()


@app.command()
def doctor(
    env: Annotated[bool, typer.Option("--env", help='Print the switches for a shell: eval "$(mpssl-fed doctor --env)"')] = False,
    network: Annotated[bool, typer.Option("--network", help="Also try to reach the hosts that downloads come from.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what this machine has and lacks; exit status 1 if something needed is missing."""
    from mpssl_fed.environment import export_lines

    if env:
        typer.echo(export_lines())
        return
    from mpssl_fed.doctor import examine

    checks = examine(network)
    needed = [check for check in checks if check.state == "missing"]
    if as_json:
        typer.echo(json.dumps([check.to_json() for check in checks], indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            cure = f"  -> {check.cure}" if check.cure else ""
            typer.echo(f"{check.mark}  {check.name:<{width}} {check.detail}{cure}")
        typer.echo(f"\n{len(needed)} needed thing(s) missing: {', '.join(check.name for check in needed)}" if needed else "\nready")
    if needed:
        raise typer.Exit(1)
