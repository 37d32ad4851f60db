"""What a daemon's owner asks it: how it is, and what it has answered and refused. Brings no torch in, as supervisors ask often."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mpssl_fed.deployment import wire
from mpssl_fed.errors import UserError

TRUST = "this site trusts the app bundles it is sent: SuperNode and daemon share a user, so a hostile bundle could read its data"


def status(settings_state: Path, socket: Path | None = None) -> dict[str, Any]:
    """Return the running daemon's status; UserError when none answers, or answers its owner alone."""
    return _asked(settings_state, socket, wire.STATUS)


def health(settings_state: Path, socket: Path | None = None) -> str:
    """Return how the daemon is: ok, or stuck in a round that it ends by a new start. UserError as :func:`status`."""
    return str(_asked(settings_state, socket, wire.HEALTH)["status"])


def _asked(state: Path, socket: Path | None, target: str) -> dict[str, Any]:
    path = socket or state / "site.sock"
    try:
        code, answer = wire.call(path, "GET", target, timeout=10)
    except OSError as error:
        raise UserError(f"no daemon answers at {path} ({error.strerror or error}); start it with: mpssl-fed site run") from error
    if code == 404:
        raise UserError(f"the daemon at {path} is of an earlier version, which does not know {target}; start it again")
    if code not in (200, 503):
        raise UserError(f"the daemon at {path} answers its owner alone; ask as the user that runs it")
    found: dict[str, Any] = json.loads(answer)
    return found


def warnings_of(trust_bundles: bool, scope: str) -> tuple[str, ...]:
    """Return what the daemon's log, its status and the owner's report say aloud."""
    bare = "scope off: no noise is added; it protects no image from a hostile server"
    return (*((TRUST,) if trust_bundles else ()), *((bare,) if scope == "off" else ()))
