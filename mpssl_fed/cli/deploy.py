"""Commands of a federation of real processes: ``deploy`` on one machine; ``certs``, ``server``, ``site``, ``submit`` on many."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

app = typer.Typer()
certs_app = typer.Typer(no_args_is_help=True, help="Keys and certificates of a federation.")


class _RunByDefault(TyperGroup):
    """``mpssl-fed site --data ...`` is ``mpssl-fed site run --data ...``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("--") and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


site_app = typer.Typer(cls=_RunByDefault, no_args_is_help=True, help="One site: its daemon, its SuperNode, its state.")
app.add_typer(certs_app, name="certs")
app.add_typer(site_app, name="site")

Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value ...")]
Ca = Annotated[Path, typer.Option("--ca", help="Certificate of the federation's CA.", exists=True, dir_okay=False)]
State = Annotated[Path | None, typer.Option(help="Folder of everything that never leaves; default $XDG_STATE_HOME/mpssl-fed/NAME.")]
Name = Annotated[str, typer.Option(help="Name of the site.")]


@app.command()
def deploy(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of a shipped config such as 'demo'.")],
    overrides: Overrides = None,
    sites: Annotated[int | None, typer.Option(help="federation.sites")] = None,
    rounds: Annotated[int | None, typer.Option(help="federation.rounds")] = None,
    output: Annotated[Path | None, typer.Option(help="Run directory; default runs/CONFIG-STEM.")] = None,
    port: Annotated[int | None, typer.Option(help="The SuperLink's port; default: a free one.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the run directory.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run directory if it exists.")] = False,
) -> None:
    """Run a federation of real processes on this machine: TLS, site keys, a daemon a site; everything down at the end."""
    from mpssl_fed import config as configs
    from mpssl_fed.cli.live import progress, resumable
    from mpssl_fed.federation.deploy import Deployment

    shorthands = {"federation.sites": sites, "federation.rounds": rounds, "output.dir": output}
    words = [*(overrides or []), *(f"{key}={value}" for key, value in shorthands.items() if value is not None)]
    resolved = configs.load(config, words)
    folder = Path(resolved.output.dir or Path("runs") / Path(config).stem)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    up = Deployment(resolved, folder, resume=resume, overwrite=overwrite or resolved.output.overwrite, port=port, note=_note)
    with resumable(), up:
        manifest = up.serve(progress())
    result = manifest["result"]
    accuracy = result["test_accuracy"]
    typer.echo(f"{resolved.data.held_out} accuracy {accuracy:.4f}   {folder}" if accuracy is not None else str(folder))


@certs_app.command("ca")
def certs_ca(folder: Annotated[Path, typer.Argument(help="Folder for ca.key and ca.crt; made 0700.")]) -> None:
    """Make a CA. Its key stays offline once the server has its certificate."""
    from mpssl_fed.federation import certs
    from mpssl_fed.federation.site_local import make_private

    certs.make_ca(make_private(folder))
    typer.echo(f"{folder / certs.CA_CERT}: give it to every site. {folder / certs.CA_KEY}: keep it secret")


@certs_app.command("server")
def certs_server(
    folder: Annotated[Path, typer.Argument(help="Folder of the CA.")],
    hosts: Annotated[list[str], typer.Argument(help="Names and addresses that sites reach the server by.")],
) -> None:
    """Make, or renew, the server's certificate."""
    from mpssl_fed.federation import certs

    certs.make_server_certificate(folder, hosts)
    typer.echo(
        f"{folder / certs.SERVER_CERT} for {', '.join(hosts)}, {certs.SERVER_DAYS} days; its key: {folder / certs.SERVER_KEY}"
    )


@certs_app.command("site")
def certs_site(
    folder: Annotated[Path, typer.Argument(help="Folder for NAME.key and NAME.pub, on the site's own machine.")], name: Name
) -> None:
    """Make a site's key pair, on the site's own machine."""
    from mpssl_fed.federation import certs

    private, public = certs.make_site_key(folder, name)
    typer.echo(f"{public}: send it to the server's operator. {private}: stays here")


@app.command()
def server(
    keys: Annotated[Path, typer.Option(help="Folder with ca.crt, server.crt and server.key.", exists=True, file_okay=False)],
    database: Annotated[Path, typer.Option(help="Registrations and runs; survives a restart.")],
    host: Annotated[str, typer.Option(help="Keep it on loopback: the port takes runs from anyone who reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The SuperLink's port; put deploy/nginx.conf before it.")] = 8000,
    allow_open_control: Annotated[
        bool, typer.Option("--allow-open-control", help="Listen elsewhere than on loopback although anyone there may submit runs.")
    ] = False,
) -> None:
    """Run the SuperLink: TLS, registered keys only, a database."""
    from mpssl_fed.errors import UserError
    from mpssl_fed.federation import control, environment
    from mpssl_fed.federation.deploy import free_ports

    if host not in ("127.0.0.1", "::1", "localhost") and not allow_open_control:
        raise UserError(
            f"--host {host}: the SuperLink's port takes runs and registrations from anyone who reaches it, without a password. "
            "Keep it on 127.0.0.1 behind deploy/nginx.conf, or accept that with --allow-open-control"
        )
    if host == "127.0.0.1":
        free_ports(1, port)
    os.environ.update(environment.of_flower(database.absolute().parent / "flower"))
    command = control.superlink_command(keys, database.absolute(), host, port)
    os.execv(command[0], command)


@app.command()
def register(
    public_key: Annotated[Path, typer.Argument(help="NAME.pub of a site.", exists=True, dir_okay=False)],
    ca: Ca,
    server: Annotated[str, typer.Option(help="HOST:PORT of the SuperLink, on its own machine.")] = "127.0.0.1:8000",
) -> None:
    """Let a site join: on the server's machine, with the public key that the site sent."""
    from mpssl_fed.federation import control

    with _flower_home() as home:
        control.FlowerCommand(server, ca, home).register(public_key, public_key.stem)
    typer.echo(f"{public_key.stem} may join")


@app.command()
def submit(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of a shipped config.")],
    ca: Ca,
    overrides: Overrides = None,
    server: Annotated[str, typer.Option(help="HOST:PORT of the SuperLink, on its own machine.")] = "127.0.0.1:8000",
    output: Annotated[Path | None, typer.Option(help="Run directory on the server's machine; default runs/CONFIG-STEM.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the run directory.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run directory if it exists.")] = False,
) -> None:
    """Submit a run to a SuperLink, follow it and say truthfully how it ended."""
    from mpssl_fed import config as configs
    from mpssl_fed.cli.live import progress, resumable
    from mpssl_fed.federation import control
    from mpssl_fed.federation.submit import submit as submit_run

    resolved = configs.load(config, overrides or [])
    folder = Path(output or resolved.output.dir or Path("runs") / Path(config).stem).absolute()
    with resumable(), _flower_home() as home:
        flower = control.FlowerCommand(server, ca, home)
        manifest = submit_run(flower, resolved, folder, home, progress(), resume=resume, overwrite=overwrite)
    typer.echo(f"finished   {folder}   accuracy {manifest['result']['test_accuracy']}")


@site_app.command("run")
def site_run(
    data: Annotated[Path, typer.Option(help="Folder CLASS/*.png, or a CSV file path,label[,subject].", exists=True)],
    classes: Annotated[str, typer.Option(help="The task's class names in the agreed order: a,b,c or a file, one a line.")],
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
    size: Annotated[int, typer.Option(help="Side in pixels that the images are checked at when the daemon starts.")] = 32,
    channels: Annotated[int, typer.Option(help="1 grey, 3 colour.")] = 3,
    subjects: Annotated[str | None, typer.Option(help="'parent': the images lie in CLASS/SUBJECT/.")] = None,
    generator_path: Annotated[str | None, typer.Option(help="This site's own copy of a generator that is not shipped.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps, whatever the server asks.")] = None,
    server: Annotated[str | None, typer.Option(help="HOST:PORT: also start the SuperNode here (needs --ca and --key).")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the federation's CA.")] = None,
    key: Annotated[Path | None, typer.Option(help="This site's private key (NAME.key).")] = None,
    node_port: Annotated[int, typer.Option(help="Local port between the SuperNode and its helpers.")] = 9094,
) -> None:
    """Serve this site's data to the federation, as far as the policy allows, until Ctrl-C."""
    from mpssl_fed.errors import UserError
    from mpssl_fed.federation.site_process import SiteSettings, serve_site
    from mpssl_fed.federation.site_supernode import SuperNode

    names = Path(classes).read_text(encoding="utf-8").splitlines() if Path(classes).is_file() else classes.split(",")
    settings = SiteSettings(
        name, number, data, tuple(word.strip() for word in names if word.strip()), policy, state, socket, supernode_user, group,
        trust_bundles, size, channels, subjects, generator_path, device,
    )  # fmt: skip
    node = None
    if server is not None:
        if ca is None or key is None:
            raise UserError("--server needs --ca (the federation's ca.crt) and --key (this site's NAME.key)")
        node = SuperNode(server, ca.absolute(), key.absolute(), settings.socket_path.absolute(), node_port, supernode_user)
    serve_site(settings, node)


@site_app.command("node")
def site_node(
    server: Annotated[str, typer.Option(help="HOST:PORT of the server's TLS front.")],
    ca: Ca,
    key: Annotated[Path, typer.Option(help="This site's private key (NAME.key).", exists=True, dir_okay=False)],
    socket: Annotated[Path, typer.Option(help="The daemon's Unix socket.")],
    node_port: Annotated[int, typer.Option(help="Local port between the SuperNode and its helpers.")] = 9094,
) -> None:
    """Run the SuperNode that relays to a daemon; as another user than the daemon's."""
    from mpssl_fed.federation import environment
    from mpssl_fed.federation.site_local import make_private, state_folder
    from mpssl_fed.federation.site_process import relaying, supernode_command

    os.environ.update(environment.of_flower(make_private(state_folder("node"))))
    command = supernode_command(server, ca.absolute(), key.absolute(), relaying(socket.absolute()), node_port)
    os.execv(command[0], list(command))


@site_app.command("status")
def site_status(
    name: Name = "site",
    state: State = None,
    socket: Annotated[Path | None, typer.Option(help="The daemon's Unix socket.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Say what the daemon has answered and refused, under which policy, and whether it trusts bundles."""
    from mpssl_fed.federation.site_local import state_folder
    from mpssl_fed.federation.site_process import status, warnings_of

    found: dict[str, Any] = status(state or state_folder(name), socket)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for field, value in found.items():
        typer.echo(f"{field:<14} {value}")
    for warning in warnings_of(found["trust_bundles"], found["scope"]):
        typer.echo(f"warning        {warning}")


@site_app.command("wipe")
def site_wipe(name: Name = "site", state: State = None) -> None:
    """Erase latents, caches, stored replies and audit output of a site; the ledger stays."""
    from mpssl_fed.federation.site_local import state_folder, wipe

    gone = wipe(state or state_folder(name))
    typer.echo(f"erased: {', '.join(gone) or 'nothing was there'}; the ledger is kept")


@contextmanager
def _flower_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mpssl-fed-") as name:
        yield Path(name)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
