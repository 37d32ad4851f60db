"""A site's side of secure aggregation: its keys of an epoch, one masked vector a slot, one answer to open its sum."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mpssl_fed.secure import keys, sharing
from mpssl_fed.secure.epoch import NONCE, Epoch, Hello, SignedHello, View, graph_commitment
from mpssl_fed.secure.errors import Decline
from mpssl_fed.secure.keys import SECRET, Integers
from mpssl_fed.secure.terms import Floor, Terms

Shares = dict[int, bytes]
"""Place of a site -> 16 bytes."""


@dataclass(frozen=True)
class Answer:
    """What a site gives to open a sum: shares of the self seeds of those in it, and of the slot keys of those who fell out."""

    seeds: Shares
    slots: Shares

    def dump(self) -> dict[str, dict[str, str]]:
        """Return it as JSON has it."""
        return {name: {str(k): v.hex() for k, v in getattr(self, name).items()} for name in ("seeds", "slots")}

    @staticmethod
    def load(value: Any) -> Answer:
        """Return what :meth:`dump` gave; Decline for anything else."""
        try:
            if set(value) != {"seeds", "slots"}:
                raise ValueError("keys")
            return Answer(*({int(k): bytes.fromhex(v) for k, v in value[name].items()} for name in ("seeds", "slots")))
        except (TypeError, ValueError, AttributeError) as error:
            raise Decline("malformed") from error


@dataclass
class Slot:
    """What a site holds of one slot. ``secret`` stands for its X25519 key, ``seed`` for its self mask; both are None once erased.

    held: of each site the shares (of secret, of seed) that it dealt to this one. request: the name of what was masked; view: what
    it signed or opened.
    """

    secret: bytes | None
    seed: bytes | None
    held: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    participants: tuple[int, ...] = ()
    request: str = ""
    run: str = ""
    round: int = 0
    view: View | None = None
    answer: Answer | None = None

    def erase(self) -> None:
        """Forget all that opens the slot; what was answered stays, to be said again."""
        self.secret = self.seed = None
        self.held = {}


@dataclass
class Member:
    """One site in one epoch; ``epoch`` is None before its hellos are known.

    Whoever holds it makes it durable, or lets it end with the process, before an answer of it leaves: :mod:`mpssl_fed.federation`.
    """

    identity: Ed25519PrivateKey
    proposed: Terms
    box: X25519PrivateKey | None  # None once a slot is in use: it opens what was dealt of every slot, closed or not
    nonce: bytes
    slots: list[Slot]
    hello: SignedHello
    epoch: Epoch | None = None
    clipped: int = 0  # coordinates that the terms' range cut, over all slots; it stays at the site
    dealt: dict[int, bytes] = field(default_factory=dict)  # what each other site is sent, so that asking again gets the same
    graph: bytes = b""  # this site's part in the draw of who is whose neighbour

    @staticmethod
    def new(identity: Ed25519PrivateKey, proposed: Terms, floor: Floor) -> Member:
        """Return a site with fresh keys of every slot, and its hello."""
        nonce, graph, box = os.urandom(NONCE), os.urandom(NONCE), X25519PrivateKey.generate()
        slots = [Slot(os.urandom(SECRET), os.urandom(SECRET)) for _ in range(proposed.slots)]
        hello = Hello(
            identity=keys.public_of(identity).hex(),
            nonce=nonce.hex(),
            box=keys.public_of(box).hex(),
            graph=graph_commitment(graph).hex(),
            slots=[keys.public_of(keys.slot_key(_there(one.secret), nonce, i)).hex() for i, one in enumerate(slots)],
            seeds=[keys.commitment(_there(one.seed), nonce, i).hex() for i, one in enumerate(slots)],
            terms=proposed.text(),
            min_sites=floor.min_sites,
            colluding=floor.colluding,
            signed=floor.signed,
        )
        return Member(identity, proposed, box, nonce, slots, SignedHello.of(hello, identity), graph=graph)

    @property
    def place(self) -> int:
        """This site's place in its epoch."""
        return self._epoch.place(keys.public_of(self.identity))

    @property
    def _epoch(self) -> Epoch:
        if self.epoch is None:
            raise Decline("epoch")
        return self.epoch

    def reveal(self, hellos: Sequence[SignedHello], peers: Collection[str] = ()) -> bytes:
        """Enter the epoch of ``hellos`` as :meth:`join` does, and return this site's part in the draw of its graph."""
        self._enter(hellos, peers)
        return self.graph

    def join(self, hellos: Sequence[SignedHello], peers: Collection[str] = (), nonces: Sequence[bytes] = ()) -> dict[int, bytes]:
        """Enter the epoch of ``hellos`` and return, by place, the sealed shares of every secret for each neighbour.

        nonces: by place, what all revealed, where sites have few neighbours. Decline for an epoch without this site's own hello,
        with a site that is not among ``peers`` (fingerprints; none: all are), with terms that do not fit, for a second epoch with
        the same keys, for nonces that were not committed to, and for a neighbour whose keys are none. The same one again gets the
        same shares.
        """
        self._enter(hellos, peers)
        if self.dealt:
            return self.dealt
        epoch = self._epoch.drawn(nonces)
        for place in epoch.neighbours(self.place):
            epoch.hellos[place - 1].require_sound()
        self.epoch = epoch
        here, threshold, holders = self.place, epoch.terms.threshold, epoch.holders(self.place)
        shares = [
            tuple(
                dict(zip(holders, sharing.split(_there(s), threshold, len(holders)), strict=True)) for s in (one.secret, one.seed)
            )
            for one in self.slots
        ]
        for slot, (secret, seed) in zip(self.slots, shares, strict=True):
            slot.held[here] = (secret[here], seed[here])
        for place in holders:
            if place != here:
                content = b"".join(secret[place] + seed[place] for secret, seed in shares)
                self.dealt[place] = keys.seal(self._box(here, place), content, _envelope(epoch, here, place))
        return self.dealt

    def _enter(self, hellos: Sequence[SignedHello], peers: Collection[str]) -> None:
        epoch = Epoch.of(hellos, self.proposed)
        if self.hello not in epoch.hellos:
            raise Decline("epoch")
        epoch.require_peers(peers)
        if self.epoch is not None and epoch.id != self.epoch.id:
            raise Decline("closed")
        if self.epoch is None:
            self.epoch = epoch

    def receive(self, inbox: Mapping[int, bytes]) -> None:
        """Take the shares that other sites dealt to this one (place -> sealed); one that is not theirs is left where
        it is, since whoever dealt it would else stop all others. Those of a site that are here already stay, and those that come
        after the first vector or answer come too late."""
        epoch, here = self._epoch, self.place
        for place, sealed in () if self.box is None else inbox.items():
            if place not in epoch.neighbours(here) or any(place in slot.held for slot in self.slots):
                continue
            try:
                content = keys.unseal(self._box(place, here), sealed, _envelope(epoch, place, here))
            except Decline:
                continue
            if len(content) != 2 * SECRET * len(self.slots):
                continue
            for i, slot in enumerate(self.slots):
                own = content[2 * SECRET * i : 2 * SECRET * (i + 1)]
                if slot.secret is not None:
                    slot.held[place] = (own[:SECRET], own[SECRET:])

    def admit(self, slot: int, participants: Sequence[int], request: str, when: tuple[str, int]) -> bool:
        """Whether ``request`` (a name) of (run, round) ``when`` was masked in ``slot`` before; Decline where it may not be.

        A slot masks one vector, ever, and a round takes one slot. participants: places of all whose vectors may be summed, this
        site's and at least m among them.
        """
        View(slot, *when, tuple(participants), tuple(participants), request).check(self._epoch)
        one = self.slots[slot]
        if one.request:
            if (one.request, one.participants) != (request, tuple(participants)):
                raise Decline("closed")
            return True
        if one.secret is None or one.view is not None:
            raise Decline("closed")
        if self.place not in participants:
            raise Decline("epoch")
        if any((other.run, other.round) == when for other in self.slots):
            raise Decline("closed")
        return False

    def mask(self, slot: int, participants: Sequence[int], request: str, when: tuple[str, int], vector: Integers) -> Integers:
        """Put the masks of ``slot`` on ``vector`` (integers modulo 2^64), in place, and return it; earlier slots are erased.

        In place, so that what is masked does not stay in memory beside it.

        request: names what every site is asked, weights and config too. It is in the pairwise masks, so that those of sites that
        were asked different things do not cancel: a server that lets all but one train to no effect gets no sum, and not the one.

        Decline as :meth:`admit`, and where it was masked before: whoever holds what was sent then gives that.
        """
        if self.admit(slot, participants, request, when):
            raise Decline("closed")
        for earlier in self.slots[:slot]:
            earlier.erase()
        one, epoch, here = self.slots[slot], self._epoch, self.place
        key = keys.slot_key(_there(one.secret), self.nonce, slot)
        self_mask(vector, epoch, slot, here, _there(one.seed))
        for other in participants:
            if other in epoch.neighbours(here):
                pair_mask(vector, epoch, slot, (here, other), key, request)
        one.request, one.participants, (one.run, one.round) = request, tuple(participants), when
        self.box = None
        return vector

    def sign(self, view: View) -> bytes:
        """Return this site's signature under ``view``, the only one of its slot that it signs and opens."""
        self._take(view, signing=True)
        return self.identity.sign(view.text(self._epoch))

    def unmask(self, view: View, signatures: Mapping[int, bytes] | None = None) -> Answer:
        """Return the shares that open the sum of ``view``, and erase the slot; the same view again gets the same ones.

        signatures: of survivors by place, wanted where the terms are ``signed``: at least threshold of them. Of each site one share
        leaves, of its seed or of its key, never both.
        """
        epoch = self._epoch
        if epoch.terms.signed:
            text, given = view.text(epoch), signatures or {}
            good = [p for p in view.survivors if p in given and keys.verify(epoch.hello(p).public, given[p], text)]
            if len(good) < epoch.terms.threshold:
                raise Decline("terms")
        one = self._take(view)
        if one.answer is None:
            fell_out = [place for place in view.participants if place not in view.survivors]
            one.answer = Answer(
                {place: one.held[place][1] for place in view.survivors if place in one.held},
                {place: one.held[place][0] for place in fell_out if place in one.held},
            )
            one.erase()
            self.box = None
        return one.answer

    def _take(self, view: View, signing: bool = False) -> Slot:
        """Return the slot of ``view`` with it on record; Decline for another view than it has, or than was masked for."""
        view.check(self._epoch)
        one = self.slots[view.slot]
        if one.view is not None:
            if one.view != view:
                raise Decline("closed")
            return one
        if one.secret is None or any((s.run, s.round) == (view.run, view.round) for s in self.slots if s is not one):
            raise Decline("closed")
        inside = self.place in view.participants
        if inside != bool(one.request) or (inside and (one.participants, one.run, one.round, one.request) != _of(view)):
            raise Decline("closed")
        if signing and self.place not in view.survivors:
            raise Decline("malformed")
        one.view, one.run, one.round = view, view.run, view.round
        return one

    def _box(self, sender: int, receiver: int) -> bytes:
        """Return the key of what ``sender`` seals for ``receiver``, one of which is this site."""
        epoch = self._epoch
        if self.box is None:
            raise Decline("closed")
        other = receiver if sender == self.place else sender
        secret = keys.agreed(self.box, bytes.fromhex(epoch.hello(other).box))
        return keys.derive(secret, "box", epoch.id, sender, receiver)


def self_mask(vector: Integers, epoch: Epoch, slot: int, place: int, seed: bytes, sign: int = 1) -> None:
    """Put the mask of a site's own seed on ``vector``, in place; with sign -1 take it off."""
    keys.add_keystream(vector, keys.derive(seed, "self mask", epoch.id, slot, place), sign)


def pair_mask(vector: Integers, epoch: Epoch, slot: int, pair: tuple[int, int], key: X25519PrivateKey, request: str) -> None:
    """Put the mask of ``request`` that two sites share on ``vector``, in place, as the first of ``pair`` does, whose slot key
    ``key`` is: the one whose place is lower adds it, the other subtracts it."""
    secret = keys.agreed(key, bytes.fromhex(epoch.hello(pair[1]).slots[slot]))
    stream = keys.derive(secret, "pair mask", epoch.id, slot, min(pair), max(pair), request)
    keys.add_keystream(vector, stream, 1 if pair[0] < pair[1] else -1)


def _of(view: View) -> tuple[tuple[int, ...], str, int, str]:
    return view.participants, view.run, view.round, view.request


def _envelope(epoch: Epoch, sender: int, receiver: int) -> bytes:
    return epoch.id + f"{sender}>{receiver}".encode()


def _there(secret: bytes | None) -> bytes:
    if secret is None:
        raise Decline("closed")
    return secret
