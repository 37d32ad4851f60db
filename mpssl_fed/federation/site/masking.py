"""A site's part in a sum: which keys it holds in which run, what it masked, and what it told to open it."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpssl_fed.config import Config
from mpssl_fed.federation import secure_messages as wire
from mpssl_fed.federation.messages import TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.closed import ClosedRounds
from mpssl_fed.federation.site.sharing import SharedPart, require_honest
from mpssl_fed.federation.weights import flat, from_record
from mpssl_fed.files import write_atomic
from mpssl_fed.secure import stored
from mpssl_fed.secure.epoch import SignedHello, View
from mpssl_fed.secure.errors import Decline
from mpssl_fed.secure.keys import Integers
from mpssl_fed.secure.member import Member
from mpssl_fed.secure.quantise import Grid
from mpssl_fed.secure.terms import Floor

LOWEST = Floor(2)
MOST_IN_MEMORY = 4
"""Of how many runs the keys stay in memory."""


class Keep(Protocol):
    """Where a site's keys of a run and what it masked last are from message to message."""

    def member(self, run: str) -> Member | None:
        """Return the site's part in the epoch of ``run``; None where it has none."""

    def vector(self, run: str, request: str) -> Integers | None:
        """Return what was masked for ``request`` (its name), if it was the last in ``run``."""

    def save(self, run: str, member: Member, masked: tuple[str, Integers] | None = None) -> None:
        """Keep both, in place of what was there; ``masked`` is the name of a request and its vector, without it the last stays."""


@dataclass
class InMemory:
    """A deployed site's: its keys end with the process, so that a restart or a restored backup never masks with them again."""

    _members: OrderedDict[str, Member] = field(default_factory=OrderedDict)
    _vectors: dict[str, tuple[str, Integers]] = field(default_factory=dict)

    def member(self, run: str) -> Member | None:
        """Return the site's part in the epoch of ``run``."""
        return self._members.get(run)

    def vector(self, run: str, request: str) -> Integers | None:
        """Return what was masked for ``request``, if it was the last in ``run``."""
        name, vector = self._vectors.get(run, ("", None))
        return vector if name == request else None

    def save(self, run: str, member: Member, masked: tuple[str, Integers] | None = None) -> None:
        """Keep both; of runs, the last few."""
        self._members[run] = member
        self._members.move_to_end(run)
        if masked is not None:
            self._vectors = {run: masked}  # of one run: it is as large as the model
        while len(self._members) > MOST_IN_MEMORY:
            gone, _ = self._members.popitem(last=False)
            self._vectors.pop(gone, None)


@dataclass(frozen=True)
class OnDisk:
    """A simulated site's: two files of its folder, 0600."""

    folder: Path

    def member(self, run: str) -> Member | None:
        """Return the site's part in the epoch of ``run``."""
        file = self.folder / "secure.json"
        if not file.is_file():
            return None
        of, _, text = file.read_text(encoding="ascii").partition("\n")
        return stored.load(text) if of == run else None

    def vector(self, run: str, request: str) -> Integers | None:
        """Return what was masked last, if for ``request``; ``run`` is the one whose member is here."""
        file = self.folder / "secure.masked"
        name, _, data = file.read_bytes().partition(b"\n") if file.is_file() else (b"", b"", b"")
        return np.frombuffer(data, dtype="<u8").astype(np.uint64, copy=False) if name == request.encode() else None

    def save(self, run: str, member: Member, masked: tuple[str, Integers] | None = None) -> None:
        """Write both; the vector first, so that a member which says that it masked has what it sent."""
        if masked is not None:
            name, vector = masked
            content = name.encode() + b"\n" + vector.astype("<u8", copy=False).tobytes()
            write_atomic(self.folder / "secure.masked", content, mode=0o600)
        write_atomic(self.folder / "secure.json", f"{run}\n{stored.dump(member)}", mode=0o600)


@dataclass(frozen=True)
class Masking:
    """How one site takes part in sums. folder: where it keeps which rounds are closed; floor and peers: its owner's.

    identity: the site's own key; None: a new one each epoch, for simulations, where nobody lists peers. head: the ledger's, where
    that is kept elsewhere, and so are the closed rounds, too.
    """

    folder: Path
    keep: Keep
    floor: Floor = LOWEST
    peers: tuple[str, ...] = ()
    identity: Ed25519PrivateKey | None = None
    head: Path | None = None

    @property
    def closed(self) -> ClosedRounds:
        """The rounds that this site masks and opens no more."""
        return ClosedRounds(self.folder, self.head)

    def answer(self, request: wire.SecureRequest, config: Config) -> str:
        """Answer a message about a sum; Refusal for what this site does not tell, or not again."""
        run, phases = request.sent.run_id, {"hello": self._hello, "reveal": self._reveal, "join": self._join}
        phases |= {"sign": self._sign, "open": self._open}
        if config.federation.aggregation != "secure":
            raise Refusal("plan")
        if request.phase not in phases:
            raise Refusal("malformed")
        try:
            return phases[request.phase](run, request.body, config)
        except Decline as decline:
            raise _refusal(decline) from decline
        except ValueError as error:  # a place or a signature that is no number
            raise Refusal("malformed") from error

    def masked(self, request: TrainRequest, config: Config, train: Callable[[], TrainReply | SharedPart]) -> Integers:
        """Return the update of ``train`` under the masks that ``request`` names, what was sent before where it is the same request.

        Refusal before ``train`` is called for a slot or round that has had its answer, for terms that are not the run's, and for
        keys that are not here.
        """
        task = wire.parse(wire.Task, request.secure)
        run, number, asked = request.sent.run_id, request.round, tuple(task.participants)
        try:
            member = self._member(run, task.epoch, config)
            require_honest(member.epoch.terms, config)  # type: ignore[union-attr]
            member.receive(_by_place(task.inbox))
            name = wire.request_name(request, task.epoch, task.slot, task.participants)
            if member.admit(task.slot, asked, name, (run, number)):
                return self._sent(run, name)
            if number <= self.closed.last(run):
                raise Decline("closed")
            reply = train()
            vector = self._integers(request, member, reply)
            self.closed.close(run, number)
            masked = member.mask(task.slot, asked, name, (run, number), vector)
        except Decline as decline:
            raise _refusal(decline) from decline
        except ValueError as error:  # a place or share that is no number, a weight beyond the terms
            raise Refusal("malformed") from error
        self.keep.save(run, member, (name, masked))
        return masked

    @staticmethod
    def _integers(request: TrainRequest, member: Member, reply: TrainReply | SharedPart) -> Integers:
        assert member.epoch is not None
        if isinstance(reply, SharedPart):
            return reply.vector()
        grid = Grid(member.epoch.terms, member.epoch.sites)
        most = member.epoch.terms.largest_weight if member.epoch.terms.weighted else 1
        weight = min(int(reply.examples), most)  # a refusal would tell that the site is larger, and over runs how large
        update = flat(reply.weights)
        update -= flat(from_record(request.weights, reply.weights))
        vector, clipped = grid.to_integers(update, weight)
        member.clipped += clipped
        return vector

    def _hello(self, run: str, body: str, config: Config) -> str:
        if body != "{}":
            raise Refusal("malformed")
        proposed = wire.terms_of(config)
        if proposed.few and self.floor.signed:  # a graph of few neighbours holds against no active server
            raise Decline("terms")
        member = Member.new(self.identity or Ed25519PrivateKey.generate(), proposed, self.floor)
        self.keep.save(run, member)
        return json.dumps(member.hello.dump())

    def _reveal(self, run: str, body: str, config: Config) -> str:
        said, member = self._new(run, body, config)
        nonce = member.reveal([SignedHello(one.text, one.signature) for one in said.hellos], self.peers)
        self.keep.save(run, member)
        return json.dumps({"nonce": nonce.hex()})

    def _new(self, run: str, body: str, config: Config) -> tuple[wire.Hellos, Member]:
        said, member = wire.parse(wire.Hellos, body), self.keep.member(run)
        if member is None or member.proposed != wire.terms_of(config):
            raise Decline("epoch")
        return said, member

    def _join(self, run: str, body: str, config: Config) -> str:
        said, member = self._new(run, body, config)
        nonces = [bytes.fromhex(one) for one in said.nonces]
        dealt = member.join([SignedHello(one.text, one.signature) for one in said.hellos], self.peers, nonces)
        self.keep.save(run, member)
        return json.dumps({"dealt": {str(place): sealed.hex() for place, sealed in dealt.items()}})

    def _sign(self, run: str, body: str, config: Config) -> str:
        _, member, view = self._opening(run, body, config)
        signature = member.sign(view)
        self.keep.save(run, member)
        return json.dumps({"signature": signature.hex()})

    def _open(self, run: str, body: str, config: Config) -> str:
        opening, member, view = self._opening(run, body, config)
        member.receive(_by_place(opening.inbox))
        answer = member.unmask(view, _by_place(opening.signatures))
        self.closed.close(run, view.round)
        self.keep.save(run, member)
        return json.dumps(answer.dump())

    def _opening(self, run: str, body: str, config: Config) -> tuple[wire.Opening, Member, View]:
        opening = wire.parse(wire.Opening, body)
        member, view = self._member(run, opening.epoch, config), opening.view(run)
        view.check(member.epoch)  # type: ignore[arg-type]
        slot = member.slots[view.slot]
        known = slot.request or slot.view is not None
        if not known and view.round <= self.closed.last(run):  # a round of an earlier epoch, or one that was masked in another slot
            raise Decline("closed")
        return opening, member, view

    def _member(self, run: str, epoch: str, config: Config) -> Member:
        member = self.keep.member(run)
        if member is None or member.epoch is None or member.epoch.id.hex() != epoch:
            raise Decline("epoch")
        if member.proposed != wire.terms_of(config):
            raise Decline("terms")
        return member

    def _sent(self, run: str, request: str) -> Integers:
        vector = self.keep.vector(run, request)
        if vector is None:
            raise Decline("closed")
        return vector


def _by_place(said: Mapping[str, str]) -> dict[int, bytes]:
    return {int(place): bytes.fromhex(one) for place, one in said.items()}


def _refusal(decline: Decline) -> Refusal:
    refusals = {"terms": Refusal("secure-terms"), "epoch": Refusal("secure-epoch"), "closed": Refusal("secure-closed")}
    return refusals.get(decline.why, Refusal("malformed"))


def in_words(required: bool, peers: bool) -> str:
    """Return for an owner which server the site's updates are hidden from."""
    if not required:
        return "none: a plain run is taken too (secure_aggregation.required)"
    if peers:
        return "an active server: only listed peers are summed, and a sum opens on their signatures alone"
    return "an honest but curious server: it could invent sites (list secure_aggregation.peers)"


def require_masks(request: TrainRequest, config: Config) -> None:
    """Raise Refusal ``plan`` for a round of a secure run that is asked for in clear, or of a plain one that is to be masked."""
    if bool(request.secure) != (config.federation.aggregation == "secure" and config.federation.secure.masks):
        raise Refusal("plan")
