"""The commands ``site``: run, node, status, health, wipe."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from mpssl_fed.cli.options import Ca, FitOption, LogFormat, LogLevel, Name, WhiteLevel, Window, on_linux


class _RunByDefault(TyperGroup):
    """``mpssl-fed site --data ...`` is ``mpssl-fed site run --data ...``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("--") and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer()
site_app = typer.Typer(
    cls=_RunByDefault, no_args_is_help=True, callback=on_linux, help="One site: its daemon, its SuperNode, its state."
)
app.add_typer(site_app, name="site")

FRONT_PORT = 9092
"""Of the server's TLS front (deploy/nginx.conf)."""

State = Annotated[Path | None, typer.Option(help="Folder of everything that never leaves; default $XDG_STATE_HOME/mpssl-fed/NAME.")]


@site_app.command("run")
def site_run(
    data: Annotated[Path, typer.Option(help="Folder CLASS/*.png, or a CSV file path,label[,subject][,site][,split].")],
    classes: Annotated[
        str, typer.Option(help="The task's class names in the agreed order: a,b,c, a file with one per line, or a JSON list.")
    ],
    policy: Annotated[Path, typer.Option(help="This site's policy (YAML); without one it answers nothing.")],
    name: Name = "site",
    number: Annotated[int, typer.Option(min=0, help="The site's number in the federation; every site has its own.")] = 0,
    state: State = None,
    socket: Annotated[Path | None, typer.Option(help="Unix socket for the SuperNode; default STATE/site.sock.")] = None,
    supernode_user: Annotated[str | None, typer.Option(help="System user that the SuperNode runs as.")] = None,
    group: Annotated[str | None, typer.Option(help="Group that owns the socket; the SuperNode's user is in it.")] = None,
    trust_bundles: Annotated[
        bool, typer.Option("--trust-bundles", help="Accept that the SuperNode's user could read this site's files.")
    ] = False,
    size: Annotated[int, typer.Option(help="The task's side in pixels, as agreed; another that a server asks is refused.")] = 32,
    channels: Annotated[int, typer.Option(help="1 grey, 3 colour, as agreed; likewise.")] = 3,
    stored_size: Annotated[
        int | None, typer.Option(help="Side that images are kept at, to be cropped from; default --size; likewise.")
    ] = None,
    subjects: Annotated[str | None, typer.Option(help="'parent': the images lie in CLASS/SUBJECT/; or 'dicom-patient-id'.")] = None,
    fit: FitOption = "crop",
    white_level: WhiteLevel = None,
    window: Window = None,
    ledger_head: Annotated[
        Path | None,
        typer.Option(help="File of the ledger's head on another disk or append-only media, so that no backup rolls both back."),
    ] = None,
    generator_path: Annotated[
        str | None, typer.Option(help="This site's own copy of a generator whose files the policy lists (policy generator).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps; default auto, whatever the server asks.")] = None,
    round_limit: Annotated[
        float, typer.Option(min=1, help="Seconds after which a round is given up; what it reserved stays spent.")
    ] = 4 * 3600.0,
    server: Annotated[str | None, typer.Option(help="HOST:PORT: also start the SuperNode here (needs --ca and --key).")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the federation's CA.")] = None,
    key: Annotated[Path | None, typer.Option(help="This site's private key (NAME.key).")] = None,
    node_port: Annotated[int, typer.Option(min=1, max=65535, help="Local port between the SuperNode and its helpers.")] = 9094,
    log_level: LogLevel = None,
    log_format: LogFormat = "text",
) -> None:
    """Serve this site's data to the federation, as far as the policy allows, until Ctrl-C."""
    from mpssl_fed.deployment.address import host_and_port
    from mpssl_fed.deployment.own_data import class_names
    from mpssl_fed.deployment.start_site import SiteSettings, serve_site
    from mpssl_fed.deployment.supernode import SuperNode
    from mpssl_fed.errors import UserError

    settings = SiteSettings(
        name, number, data, class_names(classes), policy, state, socket, supernode_user, group,
        trust_bundles, size, channels, subjects, generator_path, device, round_limit, stored_size=stored_size,
        ledger_head=ledger_head, fit=fit, white_level=white_level, window=window,
        log_level=log_level or "info", log_format=log_format,
    )  # fmt: skip
    node = None
    if server is not None:
        if ca is None or key is None:
            raise UserError("--server needs --ca (the federation's ca.crt) and --key (this site's NAME.key)")
        server = host_and_port(server, "--server", FRONT_PORT)
        node = SuperNode(
            server, ca.absolute(), key.absolute(), settings.socket_path.absolute(), node_port, supernode_user, log_format, log_level
        )
    serve_site(settings, node)


@site_app.command("node")
def site_node(
    server: Annotated[str, typer.Option(help="HOST:PORT of the server's TLS front.")],
    ca: Ca,
    key: Annotated[Path, typer.Option(help="This site's private key (NAME.key).", exists=True, dir_okay=False)],
    socket: Annotated[Path, typer.Option(help="The daemon's Unix socket.")],
    node_port: Annotated[int, typer.Option(min=1, max=65535, help="Local port between the SuperNode and its helpers.")] = 9094,
    log_level: LogLevel = None,
    log_format: LogFormat = "text",
) -> None:
    """Run the SuperNode that relays to a daemon; as another user than the daemon's."""
    from mpssl_fed import environment
    from mpssl_fed.deployment.address import host_and_port
    from mpssl_fed.deployment.flower_log import run_flower
    from mpssl_fed.deployment.isolation import make_private, state_folder
    from mpssl_fed.deployment.supernode import relaying, supernode_command
    from mpssl_fed.deployment.warm.nest import beside

    server = host_and_port(server, "--server", FRONT_PORT)
    home = make_private(state_folder("node"))
    os.environ.update(beside(home, environment.of_flower(home, server)))
    command = supernode_command(server, ca.absolute(), key.absolute(), relaying(socket.absolute()), node_port)
    raise typer.Exit(run_flower(command, log_level, log_format))


@site_app.command("status")
def site_status(
    name: Name = "site",
    state: State = None,
    socket: Annotated[Path | None, typer.Option(help="The daemon's Unix socket.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Say what the daemon has answered and refused, under which policy, and whether it trusts bundles."""
    from mpssl_fed.deployment.asking import status, warnings_of
    from mpssl_fed.deployment.isolation import state_folder

    found: dict[str, Any] = status(state or state_folder(name), socket)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for field, value in found.items():
        typer.echo(f"{field:<18} {value}")
    for warning in warnings_of(found["trust_bundles"], found["scope"]):
        typer.echo(f"warning            {warning}")


@site_app.command("health")
def site_health(
    name: Name = "site",
    state: State = None,
    socket: Annotated[Path | None, typer.Option(help="The daemon's Unix socket.")] = None,
) -> None:
    """Say "ok", or end with status 1: the daemon is stuck or does not answer. For container and load supervisors."""
    from mpssl_fed.deployment.asking import health
    from mpssl_fed.deployment.isolation import state_folder

    found = health(state or state_folder(name), socket)
    typer.echo(found)
    if found != "ok":
        raise typer.Exit(1)


@site_app.command("identity")
def site_identity(name: Name = "site", state: State = None) -> None:
    """Print the site's fingerprint, for every site's secure_aggregation.peers; its key is made where there is none."""
    from mpssl_fed.deployment.isolation import make_private, state_folder
    from mpssl_fed.federation.site.identity import fingerprint_of, identity_key

    typer.echo(fingerprint_of(identity_key(make_private(state or state_folder(name)))))


@site_app.command("wipe")
def site_wipe(name: Name = "site", state: State = None) -> None:
    """Erase latents, caches, stored replies and audit output of a site, and this user's decoded images; the ledger stays."""
    from mpssl_fed.data.formats.pixel_cache import clear
    from mpssl_fed.deployment.isolation import state_folder
    from mpssl_fed.deployment.own_data import wipe

    gone = [*wipe(state or state_folder(name)), *(["decoded images"] if clear() else [])]
    typer.echo(f"erased: {', '.join(gone) or 'nothing was there'}; the ledger is kept")
