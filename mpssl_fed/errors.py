"""The one error a user sees without a traceback, and the hint for a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input. The text names the file, key or argument, its value and the cure; the CLI prints it and exits with 2."""


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.5) -> str:
    """Return ``" Did you mean 'x'?"`` for the valid name closest to ``name``, or ``""`` when none is close."""
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=cutoff)
    return f" Did you mean '{match[0]}'?" if match else ""


class _Asked:
    """How this process is spoken to."""

    by_command_line = False


@contextmanager
def on_command_line() -> Iterator[None]:
    """Let errors name options (``--resume``) rather than Python arguments (``resume=True``)."""
    before, _Asked.by_command_line = _Asked.by_command_line, True
    try:
        yield
    finally:
        _Asked.by_command_line = before


def spoken_to_by_command_line() -> bool:
    """Return whether this process runs a command, and not a caller's Python."""
    return _Asked.by_command_line


def flag(name: str) -> str:
    """Return how the caller turns ``name`` on: ``--resume`` or ``resume=True``."""
    return f"--{name}" if _Asked.by_command_line else f"{name.replace('-', '_')}=True"


def option(name: str, value: str) -> str:
    """Return how the caller sets ``name``: ``--output DIR`` or ``output=DIR``."""
    return f"--{name} {value}" if _Asked.by_command_line else f"{name.replace('-', '_')}={value}"
