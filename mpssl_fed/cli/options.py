"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value ...")]
Ca = Annotated[Path, typer.Option("--ca", help="Certificate of the federation's CA.", exists=True, dir_okay=False)]
Name = Annotated[str, typer.Option(help="Name of the site.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output instead of text.")]
