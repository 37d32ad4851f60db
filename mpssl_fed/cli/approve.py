"""The command ``policy generator``: what an owner adds to the policy to permit a generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def generator_command(
    name: Annotated[str, typer.Argument(help="Name of a generator, as in generator.name.")],
    path: Annotated[Path | None, typer.Option(help="Its file or folder, as for site --generator-path.")] = None,
) -> None:
    """Print the policy's lines that permit a generator. Its files are read as bytes; none of them is run."""
    import yaml

    from mpssl_fed.errors import UserError, nearest
    from mpssl_fed.generators import load_generator
    from mpssl_fed.generators.base import GENERATORS
    from mpssl_fed.generators.files import comes_installed, place_of, sums

    if name not in GENERATORS:
        raise UserError(f"unknown generator '{name}'.{nearest(name, GENERATORS.names())} Known: {', '.join(GENERATORS.names())}")
    entry: dict[str, Any] = {"name": name}
    if path is None and comes_installed(name):
        entry["sha256"] = load_generator(name).state_hash()
    else:
        place = place_of(name, path)
        if place is None:
            raise UserError(f"generator '{name}' lies where its owner says: give --path")
        entry["files"] = sums(place)
    entry |= {"trained_on": "say here what it was trained on", "public": False}
    typer.echo(yaml.safe_dump({"generators": [entry]}, sort_keys=False, allow_unicode=True).rstrip())
