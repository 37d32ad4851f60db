"""The command line ``mpssl-fed``: one module a group of commands, mounted at the top level."""

from __future__ import annotations

import importlib
import sys

import typer

from mpssl_fed.environment import apply
from mpssl_fed.errors import UserError

GROUPS = ("run", "study", "deploy", "site", "data", "generator", "model", "privacy", "ledger", "audit", "doctor")
"""Modules of this package with a typer ``app``. They import torch and Flower inside their commands, never on top."""


def build() -> typer.Typer:
    """Return the whole command line."""
    root = typer.Typer(name="mpssl-fed", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    root.callback()(_root)
    for name in GROUPS:
        group: typer.Typer = importlib.import_module(f"{__name__}.{name}").app
        root.registered_commands.extend(group.registered_commands)
        root.registered_groups.extend(group.registered_groups)
    return root


def _root() -> None:
    """Federated learning where each site learns from a few labelled images and a public generator (MP-SSL).

    Begin with: mpssl-fed simulate demo. What this machine has and lacks: mpssl-fed doctor.
    """


def main() -> None:
    """Run the command line: exit 2 with one message for bad input, 130 for Ctrl-C."""
    apply()
    try:
        build()(prog_name="mpssl-fed")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
