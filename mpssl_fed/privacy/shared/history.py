"""What was released, merged: how many releases of each kind of noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mpssl_fed.config import Config


class Shared(NamedTuple):
    """Who adds to the noise of a release of which only the sum over sites is seen: how many honest sites are counted on, how many
    may collude with the server, and how many sites there are."""

    honest: int
    colluding: int
    sites: int


Key = tuple[float, float] | tuple[float, float, Shared]
"""(sigma, q) of a site's own noise; (sigma, q, who) where ``sigma`` is what the site alone adds and others add theirs."""

History = Mapping[Key, int]
"""{(sigma, q): number of releases}, and of shared noise {(sigma, q, :class:`Shared`): number}."""


def shared_of(config: Config) -> Shared | None:
    """Return who shares the noise of gradients in a run of ``config``; None where each site has its own."""
    secure = config.federation.secure
    return Shared(secure.honest, secure.colluding, config.federation.sites) if config.privacy.shared else None


def shared_steps(history: History) -> int:
    """Return how many releases of ``history`` have shared noise."""
    return sum(n for key, n in history.items() if len(key) == 3)


def alone(history: History) -> dict[Key, int]:
    """Return ``history`` as it is where no other site is honest: of shared noise only the site's own part counts."""
    total: dict[Key, int] = {}
    for key, n in history.items():
        own: Key = (key[0], key[1], key[2]._replace(honest=1)) if len(key) == 3 else key
        total[own] = total.get(own, 0) + n
    return total


def key_of(sigma: float, q: float, *who: float) -> Key:
    """Return the key of numbers as a ledger and JSON hold them: sigma, q and, of shared noise, honest, colluding, sites."""
    return (float(sigma), float(q), Shared(*(int(one) for one in who))) if who else (float(sigma), float(q))


def listed(history: History) -> list[list[float]]:
    """Return a history as JSON holds it: [[sigma, q, n], ...]; of shared noise [sigma, q, n, honest, colluding, sites]."""
    return [[*key[:2], n, *(key[2] if len(key) == 3 else ())] for key, n in sorted(history.items())]


def unlisted(releases: Iterable[Sequence[float]]) -> dict[Key, int]:
    """Return the history of what :func:`listed` returned, equal keys added up."""
    total: dict[Key, int] = {}
    charge(total, releases)
    return total


def charge(history: dict[Key, int], releases: Iterable[Sequence[float]]) -> None:
    """Add what :func:`listed` returned to a history."""
    for sigma, q, n, *who in releases:
        key = key_of(sigma, q, *who)
        history[key] = history.get(key, 0) + int(n)
