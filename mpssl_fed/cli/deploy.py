"""Commands of a federation of real processes: deploy on one machine; certs, server, register, submit on many."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mpssl_fed.cli.options import (
    Ca,
    ConfigName,
    LogFormat,
    LogLevel,
    Name,
    Output,
    Overrides,
    Overwrite,
    Resume,
    Rounds,
    Sites,
    folder_given,
    on_linux,
    words,
)
from mpssl_fed.environment import expanded, require_linux

LINK_PORT = 8000

app = typer.Typer()
certs_app = typer.Typer(no_args_is_help=True, callback=on_linux, help="Keys and certificates of a federation.")
app.add_typer(certs_app, name="certs")


@app.command()
def deploy(
    config: ConfigName,
    overrides: Overrides = None,
    sites: Sites = None,
    rounds: Rounds = None,
    output: Output = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The SuperLink's port; default: a free one.")] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Run a federation of real processes on this machine: TLS, site keys, a daemon a site; everything down at the end."""
    require_linux()
    from mpssl_fed import config as configs
    from mpssl_fed.runs.reader import default_folder

    folder_given(output)
    resolved = configs.load(config, words(overrides, sites=sites, rounds=rounds, output=output))
    folder = expanded(resolved.output.dir or default_folder(Path(config).stem))

    from mpssl_fed.cli.live import complain, progress, resumable
    from mpssl_fed.deployment.rehearsal import Deployment
    from mpssl_fed.report.run_report import last_line, report_run

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    up = Deployment(resolved, folder, resume=resume, overwrite=overwrite or resolved.output.overwrite, port=port, note=_note)
    with resumable(), up:
        up.serve(progress())
    typer.echo(last_line(folder, report_run(folder, complain)))


@certs_app.command("ca")
def certs_ca(folder: Annotated[Path, typer.Argument(help="Folder for ca.key and ca.crt; made 0700.")]) -> None:
    """Make a CA. Its key stays offline once the server has its certificate."""
    from mpssl_fed.deployment import certs
    from mpssl_fed.deployment.isolation import make_private

    certs.make_ca(make_private(folder))
    typer.echo(f"{folder / certs.CA_CERT}: give it to every site. {folder / certs.CA_KEY}: keep it secret")


@certs_app.command("server")
def certs_server(
    folder: Annotated[Path, typer.Argument(help="Folder of the CA.")],
    hosts: Annotated[list[str], typer.Argument(help="Names and addresses that sites reach the server by.")],
) -> None:
    """Make, or renew, the server's certificate."""
    from mpssl_fed.deployment import certs

    certs.make_server_certificate(folder, hosts)
    typer.echo(
        f"{folder / certs.SERVER_CERT} for {', '.join(hosts)}, {certs.SERVER_DAYS} days; its key: {folder / certs.SERVER_KEY}"
    )


@certs_app.command("site")
def certs_site(
    folder: Annotated[Path, typer.Argument(help="Folder for NAME.key and NAME.pub, on the site's own machine.")], name: Name
) -> None:
    """Make a site's key pair, on the site's own machine."""
    from mpssl_fed.deployment import certs

    private, public = certs.make_site_key(folder, name)
    typer.echo(f"{public}: send it to the server's operator. {private}: stays here")


@app.command()
def server(
    keys: Annotated[Path, typer.Option(help="Folder with ca.crt, server.crt and server.key.", exists=True, file_okay=False)],
    database: Annotated[Path, typer.Option(help="Registrations and runs; survives a restart.")],
    host: Annotated[str, typer.Option(help="Keep it on loopback: the port takes runs from anyone who reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The SuperLink's port; put deploy/nginx.conf before it.")] = 8000,
    allow_open_control: Annotated[
        bool, typer.Option("--allow-open-control", help="Listen elsewhere than on loopback although anyone there may submit runs.")
    ] = False,
    log_level: LogLevel = None,
    log_format: LogFormat = "text",
) -> None:
    """Run the SuperLink: TLS, registered keys only, a database."""
    require_linux()
    from mpssl_fed import environment
    from mpssl_fed.deployment import certs
    from mpssl_fed.deployment import superlink as control
    from mpssl_fed.deployment.address import is_loopback, listening
    from mpssl_fed.deployment.flower_log import run_flower
    from mpssl_fed.deployment.rehearsal import free_ports
    from mpssl_fed.errors import UserError

    host = listening(host, "--host")
    if not is_loopback(host) and not allow_open_control:
        raise UserError(
            f"--host {host}: the SuperLink's port takes runs and registrations from anyone who reaches it, without a password. "
            "Keep it on 127.0.0.1 behind deploy/nginx.conf, or accept that with --allow-open-control"
        )
    for name in (certs.CA_CERT, certs.SERVER_CERT, certs.SERVER_KEY):
        if not (keys / name).is_file():
            raise UserError(f"--keys {keys}: has no {name}; make it by `mpssl-fed certs ca` and `mpssl-fed certs server`")
    free_ports(1, port, host)
    certs.require_pair(keys)
    os.environ.update(environment.of_flower(database.absolute().parent / "flower"))
    command = control.superlink_command(keys, database.absolute(), host, port)
    raise typer.Exit(run_flower(command, log_level, log_format))


@app.command()
def register(
    public_key: Annotated[Path, typer.Argument(help="NAME.pub of a site.", exists=True, dir_okay=False)],
    ca: Ca,
    server: Annotated[str, typer.Option(help="HOST:PORT of the SuperLink, on its own machine.")] = "127.0.0.1:8000",
) -> None:
    """Let a site join: on the server's machine, with the public key that the site sent."""
    require_linux()
    from mpssl_fed.deployment import superlink as control
    from mpssl_fed.deployment.address import host_and_port

    server = host_and_port(server, "--server", LINK_PORT)
    with _flower_home() as home:
        control.FlowerCommand(server, ca, home).register(public_key, public_key.stem)
    typer.echo(f"{public_key.stem} may join")


@app.command()
def submit(
    config: ConfigName,
    ca: Ca,
    overrides: Overrides = None,
    server: Annotated[str, typer.Option(help="HOST:PORT of the SuperLink, on its own machine.")] = "127.0.0.1:8000",
    output: Annotated[
        str | None, typer.Option(metavar="PATH", help="Run directory on the server's machine; default runs/CONFIG-STEM.")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    log_format: LogFormat = "text",
) -> None:
    """Submit a run to a SuperLink, follow it and say truthfully how it ended."""
    require_linux()
    from mpssl_fed import config as configs

    folder_given(output)
    resolved = configs.load(config, words(overrides, output=output))

    from mpssl_fed.deployment.address import host_and_port
    from mpssl_fed.runs.reader import default_folder

    server = host_and_port(server, "--server", LINK_PORT)
    folder = expanded(resolved.output.dir or default_folder(Path(config).stem)).absolute()
    kept = resolved.output.model_copy(update={"resume": resume, "overwrite": overwrite})

    from mpssl_fed.cli.live import complain, progress, resumable
    from mpssl_fed.deployment import superlink as control
    from mpssl_fed.deployment.submit import submit as submit_run
    from mpssl_fed.report.chance import warning
    from mpssl_fed.runs.json_lines import JsonLines
    from mpssl_fed.runs.reader import RunReader

    lines = JsonLines() if log_format == "json" else None
    with resumable(lambda text: lines.tell(text, "WARNING") if lines else complain(f"\n{text}")), _flower_home() as home:
        flower = control.FlowerCommand(server, ca, home)
        manifest = submit_run(flower, resolved.model_copy(update={"output": kept}), folder, home, lines or progress())
    for line in warning(RunReader(folder)):
        lines.tell(line, "WARNING") if lines else complain(line)
    accuracy = manifest["result"]["test_accuracy"]
    if lines:
        lines.tell("finished", folder=str(folder), accuracy=accuracy)
    else:
        typer.echo(f"finished   {folder}   accuracy {accuracy}   its report.html is written there")


@contextmanager
def _flower_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mpssl-fed-") as name:
        yield Path(name)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
