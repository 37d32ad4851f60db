"""A site as its owner sees it: what is left of the budget, what was answered and what was refused, as its own daemon tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpssl_fed.deployment.asking import status, warnings_of
from mpssl_fed.errors import UserError
from mpssl_fed.livepage.view import View, reasons
from mpssl_fed.names import shown
from mpssl_fed.privacy.filter import rounded_up
from mpssl_fed.report.table import make_table, seconds_words

SMALL = "For the owner of this site alone: nothing on this page has left it."


def view_of_site(state: Path, socket: Path | None = None) -> View:
    """Return the site whose daemon keeps its state in ``state``, at this moment."""
    try:
        found = status(state, socket)
    except UserError as error:
        return View(shown(state.absolute().name), SMALL, "The daemon does not answer.", [str(error)])
    last, refused = found["last"], found["refused"]
    facts = [("rounds answered", str(found["answered"])), ("refused", str(sum(refused.values())))]
    facts += _budget(found["privacy"])
    if last:
        facts.append(("the last one took", seconds_words(last["seconds"])))
    tables = [("What was refused, and why", reasons(refused, "messages"))] if refused else []
    if found["dropped"]:
        lines = [[name, str(n)] for name, n in found["dropped"].items()]
        tables.append(("What the policy kept from leaving", make_table(["name", "times"], lines, ["name"])))
    return View(
        heading=f"{found['name']}, site {found['site']}",
        small=SMALL,
        finding=_finding(found),
        warnings=[*warnings_of(found["trust_bundles"], found["scope"]), *_turned_away(found)],
        facts=facts,
        tables=tables,
    )


def _finding(found: dict[str, Any]) -> str:
    if found["at_work"]:
        return "A round is at work."
    last = found["last"]
    if not last:
        return "Ready; no round has been answered since the daemon started."
    return f"Ready; round {last['round']} of run {last['run']} was answered last."


def _budget(privacy: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Return what was spent over the data set's life, and what the policy grants."""
    if privacy is None:
        return []
    if "error" in privacy:
        return [("ledger", str(privacy["error"]))]
    spent, most = privacy["epsilon"], privacy["max_epsilon"]
    words = "infinite" if spent is None else rounded_up(spent)
    left = "nothing" if spent is None or spent >= most else f"{most - spent:.2f}"
    return [
        ("epsilon spent", f"{words} of {most:g}"),
        *([("if no other site was honest", rounded_up(privacy["epsilon_alone"]))] if "epsilon_alone" in privacy else []),
        ("left", left),
        ("at delta", f"{privacy['delta']:g}"),
        ("releases on record", f"{privacy['releases']:,}"),
    ]


def _turned_away(found: dict[str, Any]) -> list[str]:
    many = found["turned_away"]
    return [f"Callers of other users that were turned away: {many}."] if many else []
