"""Who shares masks with whom where a fleet is large: a random regular graph, for a server that is honest but curious.

After Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS 2020). All sites stand on a circle in an
order that is drawn; each is joined to the ``degree`` / 2 next ones on either side, among whom and itself its secrets are shared.
Three things may go wrong, each bounded for sites that collude and fall out whatever the order is, which is drawn from nonces of all
that were committed to before.

* ``threshold`` colluding neighbours of one site hold both its secrets: a hypergeometric tail, over all sites.
* The honest survivors fall apart into two parts, whose sums would show: not as long as no degree / 2 places in a row are taken by
  colluding sites and those that fell out; the chance of one such run, over all places of the circle and all slots.
* Fewer than ``threshold`` neighbours of a site are left: a round is lost. A tail as the first, over all sites and slots.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

EXPOSED, LOST = 2.0**-40, 2.0**-20
"""Most of the chance that a sum of fewer than all honest survivors can be told in an epoch, and of that that one of its rounds is
lost, where no more sites collude and fall out than the terms have."""


@dataclass(frozen=True)
class Graph:
    """degree: neighbours of each site, even. threshold: shares that rebuild a secret, of the degree + 1 that there are."""

    degree: int
    threshold: int


@lru_cache(maxsize=256)
def solved(sites: int, colluding: int, gone: int, slots: int) -> Graph | None:
    """Return the graph of the fewest neighbours, with the highest threshold, that keeps both chances; None where there is none.

    colluding: sites that may collude. gone: most that fall out of a round or are not asked.
    """
    for degree in range(2, sites - 1, 2):
        if slots * apart(sites, colluding + gone, degree) > EXPOSED / 2:
            continue
        least = next(t for t in range(2, degree + 2) if sites * tail(sites - 1, colluding, degree, t) <= EXPOSED / 2)
        most = next((t for t in range(degree, 1, -1) if slots * sites * tail(sites - 1, gone, degree, degree - t + 1) <= LOST), 0)
        if least <= most:
            return Graph(degree, most)
    return None


def apart(sites: int, removed: int, degree: int) -> float:
    """Return a bound of the chance that the graph without ``removed`` of its sites falls apart: that of degree / 2 in a row."""
    half = degree // 2
    return sites * (math.comb(removed, half) / math.comb(sites, half))


def tail(others: int, marked: int, degree: int, least: int) -> float:
    """Return the chance that of a site's neighbours, ``degree`` of ``others``, at least ``least`` are among ``marked`` ones."""
    ways = sum(math.comb(marked, j) * math.comb(others - marked, degree - j) for j in range(max(least, 0), degree + 1))
    return ways / math.comb(others, degree)


def drawn(seed: bytes, sites: int, degree: int) -> dict[int, frozenset[int]]:
    """Return the neighbours of each place (from 1) in the graph that ``seed`` stands for."""
    return joined(sorted(range(1, sites + 1), key=lambda one: hashlib.sha256(seed + one.to_bytes(4, "big")).digest()), degree)


def joined(circle: Sequence[int], degree: int) -> dict[int, frozenset[int]]:
    """Return the neighbours of each place where they stand on ``circle`` in this order; degree: even, below their number."""
    steps = [*range(-(degree // 2), 0), *range(1, degree // 2 + 1)]
    return {place: frozenset(circle[(at + step) % len(circle)] for step in steps) for at, place in enumerate(circle)}
