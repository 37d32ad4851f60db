"""Sites of an epoch for tests, with every message between them passed by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpssl_fed.secure.epoch import Epoch, View
from mpssl_fed.secure.keys import Integers
from mpssl_fed.secure.member import Answer, Member
from mpssl_fed.secure.opening import open_sum
from mpssl_fed.secure.quantise import Grid
from mpssl_fed.secure.terms import Floor, Terms

WHEN, REQUEST = ("run", 1), "what all are asked"


def terms(**changed: object) -> Terms:
    """Return the terms of most tests: sums of at least two, two slots."""
    values = {"min_sites": 2, "threshold": 0, "colluding": 0, "signed": False, "slots": 2, "weighted": True}
    return Terms(**(values | {"largest_weight": 1000, "range": 4.0} | changed))  # type: ignore[arg-type]


@dataclass
class Fleet:
    """Members of one epoch by place, with all shares dealt."""

    members: dict[int, Member]

    @staticmethod
    def of(sites: int, proposed: Terms, floor: Floor | None = None) -> Fleet:
        """Return ``sites`` new members that have joined one epoch."""
        floor = floor or Floor(2)
        members = [Member.new(Ed25519PrivateKey.generate(), proposed, floor) for _ in range(sites)]
        hellos = [member.hello for member in members]
        parts = {member.hello: member.reveal(hellos) for member in members}
        nonces = [parts[one] for one in Epoch.of(hellos, proposed).hellos]
        for member in members:
            member.join(hellos, nonces=nonces)
        by_place = {member.place: member for member in members}
        for place, member in by_place.items():
            member.receive({other: one.dealt[place] for other, one in by_place.items() if place in one.dealt})
        return Fleet(by_place)

    @property
    def epoch(self) -> Epoch:
        """The epoch of all."""
        epoch = self.members[1].epoch
        assert epoch is not None
        return epoch

    @property
    def places(self) -> tuple[int, ...]:
        """All places."""
        return tuple(sorted(self.members))

    @property
    def grid(self) -> Grid:
        """The integers of the epoch."""
        return Grid(self.epoch.terms, len(self.members))

    def masked(self, vectors: dict[int, Integers], slot: int = 0, when: tuple[str, int] = WHEN) -> dict[int, Integers]:
        """Return each site's vector under the masks of ``slot``; the places of ``vectors`` are P."""
        asked = tuple(sorted(vectors))
        return {place: self.members[place].mask(slot, asked, REQUEST, when, vector.copy()) for place, vector in vectors.items()}

    def answers(self, view: View, by: tuple[int, ...] | None = None) -> dict[int, Answer]:
        """Return what the sites ``by`` answer to ``view``, signed by its survivors first where the terms want it."""
        signatures = {p: self.members[p].sign(view) for p in view.survivors} if self.epoch.terms.signed else {}
        return {place: self.members[place].unmask(view, signatures) for place in by or self.places}

    def opened(self, masked: dict[int, Integers], view: View, by: tuple[int, ...] | None = None) -> Integers:
        """Return the opened sum of ``view``."""
        length = len(next(iter(masked.values())))
        total = sum((masked[place] for place in view.survivors), np.zeros(length, dtype=np.uint64))
        return open_sum(self.epoch, view, total, self.answers(view, by))


def shown(slot: int, run: str, number: int, participants: tuple[int, ...], survivors: tuple[int, ...]) -> View:
    """Return the view of a sum of what all were asked."""
    return View(slot, run, number, participants, survivors, REQUEST)


def vectors(places: tuple[int, ...], length: int = 9, seed: int = 0) -> dict[int, Integers]:
    """Return random integers modulo 2^64 for each place."""
    draws = np.random.default_rng(seed)
    return {place: draws.integers(0, 2**64, length, dtype=np.uint64) for place in places}
