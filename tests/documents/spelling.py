"""Whether the commands that a text names exist, with their options."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path

import click
import typer.main

from mpssl_fed.cli import build


def misspelt(text: str) -> str | None:
    """Return the subcommand or option that does not exist of the commands of the toolkit in a line; None where all do."""
    words = shlex.split(text.replace("$(", " ").replace('"', " ").replace(")", " ").replace("'", " "))
    starts = [at for at, word in enumerate(words) if Path(word).name == "mpssl-fed"]
    for at, end in zip(starts, [*starts, len(words)][1:], strict=True):
        command: click.Command = _toolkit()
        options, path = set(_options(command)), True
        for word in words[at + 1 : end]:
            path = path and isinstance(command, click.Group) and word.isascii() and word[0].islower()
            if path:
                found = command.commands.get(word.rstrip(","))
                if found is None:
                    return word
                command, options = found, options | set(_options(found))
            elif word.startswith("--") and word.partition("=")[0].rstrip(".,;") not in options:
                return word
    return None


@cache
def _toolkit() -> click.Command:
    return typer.main.get_command(build())


def _options(command: click.Command) -> list[str]:
    """Return the options of a command; `site` without a subcommand takes those of `site run`."""
    own = ["--help", *(name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts])]
    by_default = command.commands.get("run") if isinstance(command, click.Group) else None
    return own if by_default is None else [*own, *_options(by_default)]
