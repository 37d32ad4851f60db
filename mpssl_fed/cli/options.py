"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mpssl_fed.config import Override
from mpssl_fed.config.data import Fit
from mpssl_fed.deployment.site_log import Form, Level
from mpssl_fed.environment import expanded, require_linux
from mpssl_fed.errors import UserError

ConfigName = Annotated[str, typer.Argument(help="YAML file, or the name of a shipped config such as 'demo'.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value ...")]
Sites = Annotated[int | None, typer.Option("--sites", help="federation.sites")]
Rounds = Annotated[int | None, typer.Option("--rounds", help="federation.rounds")]
Output = Annotated[str | None, typer.Option("--output", metavar="PATH", help="Run directory; default runs/CONFIG-STEM.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in the run directory.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what the run in the run directory wrote, and nothing else.")]
Ca = Annotated[Path, typer.Option("--ca", help="Certificate of the federation's CA.", exists=True, dir_okay=False)]
Name = Annotated[str, typer.Option(help="Name of the site.")]
FitOption = Annotated[
    Fit,
    typer.Option("--fit", help="How an image that is not square becomes so, as agreed: crop, pad or squash."),
]
WhiteLevel = Annotated[
    float | None,
    typer.Option(help="Value of white in grey files of 16 or 32 bits or floats, such as 4095; default: the type's own."),
]
LogLevel = Annotated[
    Level | None, typer.Option(help="Least level of what is logged; default info, of Flower's processes FLWR_LOG_LEVEL.")
]
LogFormat = Annotated[Form, typer.Option(help="text, or json: an object with time, level, logger and message a line.")]
Window = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="CENTER WIDTH", help="Window of grey DICOM files, as agreed: 40 400; default: each file's own."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of text.")]

SHORTHANDS = {"sites": "federation.sites", "rounds": "federation.rounds", "backend": "federation.backend", "output": "output.dir"}


def words(overrides: list[str] | None, **shorthands: Any) -> list[str | Override]:
    """Return overrides and the shorthand options that are set, whose values are taken as they are, in the order they count."""
    given = [(name, value) for name, value in shorthands.items() if value is not None]
    return [*(overrides or []), *(Override(SHORTHANDS[name], value, f"--{name} {value}") for name, value in given)]


def folder_given(text: str | None, option: str = "--output") -> Path | None:
    """Return the folder that an option names, None where it is not given; UserError for an empty name."""
    if text == "":
        raise UserError(f"{option} is empty, want a folder; is a variable of your shell not set?")
    return None if text is None else expanded(text)


def on_linux() -> None:
    """Refuse a group of deployment's commands elsewhere than on Linux."""
    require_linux()
