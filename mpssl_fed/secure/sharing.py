"""Shamir's shares of 16-byte secrets, by pycryptodome, and putting them together where some are wrong."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping

from Crypto.Protocol.SecretSharing import Shamir

from mpssl_fed.secure.errors import OpenError
from mpssl_fed.secure.keys import SECRET

MOST_TRIES = 300
"""Sets of shares that are tried before a secret is given up: wrong shares are rare, and a server can always be denied."""


def split(secret: bytes, threshold: int, sites: int) -> list[bytes]:
    """Return a share of 16 bytes for each of ``sites``; ``threshold`` of them give the secret back, fewer say nothing of it."""
    return [share for _, share in sorted(Shamir.split(threshold, sites, secret, ssss=False))]


def combine(shares: Mapping[int, bytes], threshold: int, right: Callable[[bytes], bool]) -> bytes:
    """Return the secret of ``shares`` (place from 1 -> share) that ``right`` accepts; OpenError where none of them does.

    ``right`` compares with what its owner committed to, so that wrong shares are found and left out.
    """
    whole = {place: share for place, share in sorted(shares.items()) if len(share) == SECRET}
    if len(whole) < threshold:
        raise OpenError(f"{len(whole)} shares of {threshold}")
    for chosen in _choices(list(whole.items()), threshold):
        secret = bytes(Shamir.combine(list(chosen), ssss=False))
        if right(secret):
            return secret
    raise OpenError("shares that give no secret which their owner committed to")


def _choices(shares: list[tuple[int, bytes]], threshold: int) -> Iterator[tuple[tuple[int, bytes], ...]]:
    """Yield sets of ``threshold`` shares: every one where they are few, else drawn, since the first ones in order differ little."""
    if math.comb(len(shares), threshold) <= MOST_TRIES:
        yield from itertools.combinations(shares, threshold)
        return
    draws = random.Random(0)
    for _ in range(MOST_TRIES):
        yield tuple(draws.sample(shares, threshold))
