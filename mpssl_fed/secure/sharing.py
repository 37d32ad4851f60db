"""Shamir's shares of 16-byte secrets, by pycryptodome, and putting them together where some are wrong."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from Crypto.Protocol.SecretSharing import Shamir

from mpssl_fed.secure.decoding import decoded
from mpssl_fed.secure.errors import OpenError
from mpssl_fed.secure.keys import SECRET

MOST_TRIES = 300
"""Sets of shares that are tried for a sum once more of them are wrong than decoding finds: a server can always be denied."""

Share = tuple[int, bytes]


def split(secret: bytes, threshold: int, sites: int) -> list[bytes]:
    """Return a share of 16 bytes for each of ``sites``; ``threshold`` of them give the secret back, fewer say nothing of it."""
    return [share for _, share in sorted(Shamir.split(threshold, sites, secret, ssss=False))]


@dataclass
class Rebuilding:
    """The secrets of one sum put together. doubted: places that gave a wrong share of one; they come last for the others, so that
    who lies costs the sum one search and not one a secret. tries: sets that may still be tried."""

    threshold: int
    doubted: set[int] = field(default_factory=set)
    tries: int = MOST_TRIES

    def secret(self, shares: Mapping[int, bytes], holders: Sequence[int], right: Callable[[bytes], bool]) -> bytes:
        """Return the secret of ``shares`` (place -> share) that ``right`` accepts; OpenError where none is found.

        holders: all places that it was split for, in the order of the shares.

        ``right`` compares with what its owner committed to, so that wrong shares are found and left out: up to half of those beyond
        the threshold by decoding, more of them by trying.
        """
        known = [place for place, share in sorted(shares.items()) if len(share) == SECRET]
        whole = [(holders.index(place) + 1, shares[place]) for place in sorted(known, key=self.doubted.__contains__)]
        if len(whole) < self.threshold:
            raise OpenError(f"{len(whole)} shares of {self.threshold}")
        secret = _combined(whole[: self.threshold])
        if right(secret):
            return secret
        found = decoded(whole, self.threshold)
        if found is not None and right(found[0]):
            self.doubted |= {holders[at - 1] for at in found[1]}
            return found[0]
        return self._tried(whole, holders, right)

    def _tried(self, whole: Sequence[Share], holders: Sequence[int], right: Callable[[bytes], bool]) -> bytes:
        for chosen in _choices(whole, self.threshold):
            if self.tries <= 0:
                break
            self.tries -= 1
            secret = _combined(chosen)
            if right(secret):
                rest = [one for one in whole if one not in chosen]
                self.doubted |= {holders[one[0] - 1] for one in rest if not right(_combined([*chosen[1:], one]))}
                return secret
        raise OpenError("shares that give no secret which their owner committed to")


def _combined(shares: Sequence[Share]) -> bytes:
    return bytes(Shamir.combine(list(shares), ssss=False))


def _choices(shares: Sequence[Share], threshold: int) -> Iterator[Sequence[Share]]:
    """Yield sets of ``threshold`` shares: every one where they are few, else drawn, since the first ones in order differ little."""
    if math.comb(len(shares), threshold) <= MOST_TRIES:
        yield from itertools.combinations(shares, threshold)
        return
    draws = random.Random(0)
    while True:
        yield draws.sample(shares, threshold)
