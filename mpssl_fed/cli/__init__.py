"""The command line ``mpssl-fed``: one module a group of commands, mounted at the top level."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import click
import typer
import typer.main
from rich.markup import escape

from mpssl_fed.cli.ending import ending_of
from mpssl_fed.environment import apply, open_streams
from mpssl_fed.errors import UserError, on_command_line

GROUPS = (
    "run",
    "study",
    "deploy",
    "site",
    "data",
    "generator",
    "model",
    "privacy",
    "ledger",
    "audit",
    "dossier",
    "watch",
    "doctor",
)
"""Modules of this package with a typer ``app``. They import torch and Flower inside their commands, never on top."""


def build() -> typer.Typer:
    """Return the whole command line."""
    root = typer.Typer(
        name="mpssl-fed",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        suggest_commands=not hasattr(click.exceptions, "NoSuchCommand"),  # a click that has it makes the suggestion itself
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback()(_root)
    for name in GROUPS:
        group: typer.Typer = importlib.import_module(f"{__name__}.{name}").app
        root.registered_commands.extend(group.registered_commands)
        root.registered_groups.extend(group.registered_groups)
    return root


def command() -> click.Command:
    """Return the command line with every help text shown as it is written: what stands in brackets is no markup."""
    found: click.Command = typer.main.get_command(build())
    _escape_help(found)
    return found


def _escape_help(one: click.Command) -> None:
    for text in ("help", "short_help", "epilog"):
        if getattr(one, text):
            setattr(one, text, escape(getattr(one, text)))
    for parameter in one.params:
        if getattr(parameter, "help", None):
            parameter.help = escape(parameter.help)  # type: ignore[attr-defined]
    for child in one.commands.values() if isinstance(one, click.Group) else ():
        _escape_help(child)


def _print_version(wanted: bool) -> None:
    if wanted:
        from mpssl_fed import __version__

        typer.echo(f"mpssl-fed {__version__}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Federated learning where each site learns from a few labelled images and a public generator (MP-SSL).

    Begin with: mpssl-fed simulate demo. What this machine has and lacks: mpssl-fed doctor.
    """
    ctx.with_resource(on_command_line())
    _refuse_empty(sys.argv[1:])
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("the folder that you are in is gone, so no path can be told from it: cd to one that is there") from None


def _refuse_empty(words: list[str]) -> None:
    """Refuse an empty word, what a shell makes of "$RUN" where nobody set it: as a path it would be the folder one is in."""
    for number, (before, word) in enumerate(zip(["", *words], words, strict=False)):
        if not word and before != "--note":
            which = before if before.startswith("--") else f"argument {number + 1}"
            raise UserError(f"{which} is empty; is a variable of your shell not set?")


def main() -> None:
    """Run the command line and exit: 2 with one message for bad input or what the system refuses, 130 for Ctrl-C."""
    apply()
    open_streams()
    with on_command_line():
        sys.exit(ending_of(lambda: command()(prog_name="mpssl-fed")))
