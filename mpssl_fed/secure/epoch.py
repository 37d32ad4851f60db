"""Who is in an epoch: the signed hellos of its sites, the terms that follow from them, and the name that binds both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mpssl_fed.secure import graph, keys
from mpssl_fed.secure.errors import Decline, TermsError
from mpssl_fed.secure.terms import MOST_OF_FEW, MOST_SLOTS, Floor, Terms

NONCE = 32
_ANY = X25519PrivateKey.generate()
HEX_KEY = r"^[0-9a-f]{64}$"
MOST_HELLO = 32_768


class Hello(BaseModel):
    """What a site says before an epoch: who it is, what it asks of the terms, and its keys of each slot. All in hexadecimal.

    seeds: commitments to the self seeds, see :func:`mpssl_fed.secure.keys.commitment`. graph: one to the 32 bytes from which, with
    those of all others, the graph of few neighbours is drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    identity: str = Field(pattern=HEX_KEY)
    nonce: str = Field(pattern=HEX_KEY)
    box: str = Field(pattern=HEX_KEY)
    graph: str = Field(pattern=HEX_KEY)
    slots: list[str] = Field(min_length=1, max_length=MOST_SLOTS)
    seeds: list[str] = Field(min_length=1, max_length=MOST_SLOTS)
    terms: str = Field(max_length=512)
    min_sites: int = Field(ge=2, le=MOST_OF_FEW)
    colluding: int = Field(ge=0, le=MOST_OF_FEW)
    signed: bool

    @property
    def floor(self) -> Floor:
        """What the site asks of the terms at least."""
        return Floor(self.min_sites, self.colluding, self.signed)

    def made_for(self, proposed: Terms) -> bool:
        """Whether it answers ``proposed``."""
        return self.terms == proposed.text() and len(self.slots) == proposed.slots

    @property
    def keys(self) -> set[str]:
        """All that no other site says."""
        return {self.identity, self.nonce, self.box, self.graph, *self.slots, *self.seeds}

    @property
    def public(self) -> bytes:
        """The site's Ed25519 key, 32 bytes."""
        return bytes.fromhex(self.identity)


@dataclass(frozen=True)
class SignedHello:
    """A hello as its site wrote and signed it: ``text`` is JSON, ``signature`` 128 hex digits."""

    text: str
    signature: str

    @staticmethod
    def of(hello: Hello, key: Ed25519PrivateKey) -> SignedHello:
        """Return ``hello`` signed."""
        text = json.dumps(hello.model_dump(), sort_keys=True, separators=(",", ":"))
        return SignedHello(text, key.sign(_hello_bytes(text)).hex())

    @cached_property
    def hello(self) -> Hello:
        """What it says; Decline for one that is not whole or not signed by whom it names."""
        try:
            if len(self.text) > MOST_HELLO:
                raise ValueError("too long")
            hello = Hello.model_validate_json(self.text)
            signature = bytes.fromhex(self.signature)
            lists = [bytes.fromhex(one) for one in (*hello.slots, *hello.seeds)]
        except (ValueError, ValidationError) as error:
            raise Decline("malformed") from error
        if len(hello.slots) != len(hello.seeds) or any(len(one) != 32 for one in lists):
            raise Decline("malformed")
        if len(hello.keys) != 4 + 2 * len(hello.slots):
            raise Decline("malformed")
        if not keys.verify(hello.public, signature, _hello_bytes(self.text)):
            raise Decline("malformed")
        return hello

    def require_sound(self) -> None:
        """Decline one with a public key of small order: it would stop all others where they meet it."""
        for key in (self.hello.box, *self.hello.slots):
            keys.agreed(_ANY, bytes.fromhex(key))

    def dump(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return {"text": self.text, "signature": self.signature}

    @staticmethod
    def load(value: Any) -> SignedHello:
        """Return what :meth:`dump` gave; Decline for anything else."""
        if (
            not isinstance(value, dict)
            or set(value) != {"text", "signature"}
            or not all(isinstance(v, str) for v in value.values())
        ):
            raise Decline("malformed")
        return SignedHello(value["text"], value["signature"])


def _hello_bytes(text: str) -> bytes:
    return b"mpssl-fed secure hello 1\n" + text.encode()


@dataclass(frozen=True)
class Epoch:
    """The sites of an epoch in the order of their identities, each with its place from 1, and the terms that follow from all.

    seed: what the graph of few neighbours is drawn from; empty before that, and where each site has all others for neighbours.
    """

    hellos: tuple[SignedHello, ...]
    terms: Terms
    seed: bytes = b""

    @staticmethod
    def of(hellos: Sequence[SignedHello], proposed: Terms) -> Epoch:
        """Return the epoch of ``hellos``, whatever their order. Decline where one is unsigned or two share a key, where one was
        made for other terms than ``proposed``, and where the strictest terms do not fit so many sites."""
        ordered = tuple(sorted(hellos, key=lambda one: one.hello.identity))
        said = [one.hello for one in ordered]
        if len(set[str]().union(*(hello.keys for hello in said))) != sum(len(hello.keys) for hello in said):
            raise Decline("malformed")
        if not all(hello.made_for(proposed) for hello in said):
            raise Decline("terms")
        try:
            terms = proposed.strictest([hello.floor for hello in said]).solved(len(said))
        except TermsError as error:
            raise Decline("terms") from error
        return Epoch(ordered, terms)

    @cached_property
    def id(self) -> bytes:
        """32 bytes that no other set of hellos or terms has."""
        total = hashlib.sha256(b"mpssl-fed secure epoch 1\n" + self.terms.text().encode())
        for one in self.hellos:
            total.update(f"\n{len(one.text)}:{one.text}{one.signature}".encode())
        return total.digest()

    @property
    def sites(self) -> int:
        """How many sites it has."""
        return len(self.hellos)

    def hello(self, place: int) -> Hello:
        """Return what the site at ``place`` said; Decline where none is there."""
        if not 1 <= place <= self.sites:
            raise Decline("malformed")
        return self.hellos[place - 1].hello

    def place(self, identity: bytes) -> int:
        """Return the place of a site; Decline where it is not in the epoch."""
        if identity not in self._places:
            raise Decline("epoch")
        return self._places[identity]

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {one.hello.public: place for place, one in enumerate(self.hellos, start=1)}

    def drawn(self, nonces: Sequence[bytes]) -> Epoch:
        """Return the epoch with its graph, of the ``nonces`` by place that its hellos committed to; Decline for others."""
        if not self.terms.degree:
            return self
        if len(nonces) != self.sites or not all(
            keys.same(graph_commitment(one), bytes.fromhex(said.hello.graph)) for one, said in zip(nonces, self.hellos, strict=True)
        ):
            raise Decline("malformed")
        return replace(self, seed=hashlib.sha256(b"mpssl-fed secure graph 1\n" + self.id + b"".join(nonces)).digest())

    def neighbours(self, place: int) -> frozenset[int]:
        """Return the places with which a site shares masks and to which it deals shares; Decline before a graph is drawn."""
        if not self.terms.degree:
            return frozenset(self._places.values()) - {place}
        if not self.seed:
            raise Decline("epoch")
        return self._graph[place]

    def holders(self, place: int) -> list[int]:
        """Return the places that hold shares of a site's secrets, ascending: its neighbours and itself."""
        return sorted({place, *self.neighbours(place)})

    @cached_property
    def _graph(self) -> dict[int, frozenset[int]]:
        return graph.drawn(self.seed, self.sites, self.terms.degree)

    def require_peers(self, peers: Collection[str]) -> None:
        """Decline an epoch with a site whose fingerprint is not listed; an empty list lists all."""
        if peers and any(keys.fingerprint(one.hello.public) not in peers for one in self.hellos):
            raise Decline("terms")


def graph_commitment(nonce: bytes) -> bytes:
    """Return the 32 bytes by which a hello commits to its site's part in the draw of the graph."""
    return keys.derive(nonce, "graph")


@dataclass(frozen=True)
class View:
    """What a site is told of one sum: its slot, whose run and round it is, who was asked (P) and whose vectors are in it (U).

    request: the name of what all of P were asked, see :meth:`mpssl_fed.secure.member.Member.mask`.
    """

    slot: int
    run: str
    round: int
    participants: tuple[int, ...]
    survivors: tuple[int, ...]
    request: str

    def text(self, epoch: Epoch) -> bytes:
        """Return what a survivor signs."""
        fields = [self.slot, self.run, self.round, list(self.participants), list(self.survivors), self.request]
        return b"mpssl-fed secure view 1\n" + epoch.id + epoch.terms.text().encode() + b"\n" + json.dumps(fields).encode()

    def check(self, epoch: Epoch) -> None:
        """Decline a view that no honest server has: places out of order or unknown, U not within P, fewer than m in U.

        Where sums are signed, fewer than threshold in U, too, and so in P before anything is masked. Else a site that alone is told
        of a small P, whose others then fall out in the view that threshold many sign, would be hidden by nothing.
        """
        for places in (self.participants, self.survivors):
            ordered = sorted(set(places)) == list(places)
            if not ordered or not all(1 <= place <= epoch.sites for place in places):
                raise Decline("malformed")
        if not set(self.survivors) <= set(self.participants) or not 0 <= self.slot < epoch.terms.slots:
            raise Decline("malformed")
        if len(self.survivors) < epoch.terms.fewest:
            raise Decline("terms")
