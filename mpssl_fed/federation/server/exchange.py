"""An epoch as the server knows it, what it keeps of it, and what it takes of what sites say to begin one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flwr.app import RecordDict

from mpssl_fed.federation import secure_messages as wire
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.secure import keys
from mpssl_fed.secure.epoch import Epoch, SignedHello, graph_commitment
from mpssl_fed.secure.errors import Decline
from mpssl_fed.secure.keys import SEAL_NONCE, SECRET, TAG
from mpssl_fed.secure.terms import Terms


@dataclass
class Exchange:
    """An epoch as the server knows it. site -> its hello, and the shares that it dealt; slot: the next one that is free; under_way:
    the round that was asked last, so that after a crash it is asked again with the same slot, sites and view."""

    hellos: dict[int, SignedHello]
    dealt: dict[int, dict[str, str]]
    epoch: Epoch
    slot: int = 0
    under_way: dict[str, Any] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)  # sites that said they hold no keys of it any more
    served: set[int] = field(default_factory=set)  # sites that answered since they were sent their shares, and so hold them

    @property
    def takes_part(self) -> set[int]:
        """The sites that can be asked to train."""
        return set(self.dealt) - self.lost

    def place(self, site: int) -> int:
        """Return the place of a site in the epoch."""
        return self.epoch.place(self.hellos[site].hello.public)

    def inbox(self, site: int) -> dict[str, str]:
        """Return the sealed shares for ``site``, by the places of who dealt them; none where it holds them already."""
        place = self.place(site)
        if site in self.served:
            return {}
        return {str(self.place(by)): dealt[str(place)] for by, dealt in self.dealt.items() if str(place) in dealt}

    def enough(self, asked: Sequence[int], nodes: Mapping[int, int]) -> list[int]:
        """Return the sites ``asked`` that are in the epoch and, where they are fewer than a sum wants, others that are online."""
        ours = [site for site in asked if site in self.takes_part]
        others = [site for site in nodes if site in self.takes_part and site not in ours]
        return ours + others[: max(self.epoch.terms.fewest - len(ours), 0)]

    @property
    def sites(self) -> dict[int, int]:
        """Place -> site, of all in the epoch."""
        return {self.place(site): site for site in self.hellos}


def load(file: Path, run: str) -> Exchange | None:
    """Return the exchange that a run left; None where the file is of another run, or damaged: new keys are exchanged then."""
    try:
        found = json.loads(file.read_text(encoding="ascii"))
        if found["run"] != run:
            return None
        hellos = {int(site): SignedHello.load(one) for site, one in found["hellos"].items()}
        epoch = Epoch.of(list(hellos.values()), Terms(**found["proposed"]))
        dealt = {int(site): dict(one) for site, one in found["dealt"].items()}
        lost, served = set(found["lost"]), set(found.get("served", []))
        epoch = replace(epoch, seed=bytes.fromhex(found.get("seed", "")))
        return Exchange(hellos, dealt, epoch, int(found["slot"]), dict(found["under_way"]), lost, served)
    except (ValueError, KeyError, TypeError, AttributeError, Decline):
        return None


def fitting(hellos: Mapping[int, SignedHello], proposed: Terms) -> dict[int, SignedHello]:
    """Return the hellos for ``proposed`` that share no key with an earlier one: no site's hello stops those of others."""
    found: dict[int, SignedHello] = {}
    said: set[str] = set()
    for site, one in hellos.items():
        if one.hello.made_for(proposed) and not one.hello.keys & said:
            found[site] = one
            said |= one.hello.keys
    return found


def committed(one: SignedHello, nonce: bytes) -> bool:
    """Whether the hello ``one`` committed to ``nonce`` for the draw of a graph."""
    return keys.same(graph_commitment(nonce), bytes.fromhex(one.hello.graph))


def whole(dealt: Mapping[str, str], here: int, epoch: Epoch) -> bool:
    """Whether ``dealt`` has sealed shares for every neighbour, as far as the server can tell."""
    others = {str(place) for place in epoch.neighbours(here)}
    digits = 2 * (SEAL_NONCE + 2 * SECRET * epoch.terms.slots + TAG)
    return set(dealt) == others and all(re.fullmatch(f"[0-9a-f]{{{digits}}}", one) for one in dealt.values())


def strictness(one: SignedHello) -> tuple[int, int]:
    """Return what a site asks for: the fewest sites of a sum, which follow from those that it fears to collude, too, and those."""
    return max(one.hello.min_sites, one.hello.colluding + 2), one.hello.colluding


def hello_of(record: RecordDict) -> SignedHello:
    """Return a site's hello; Refusal for one that is not whole."""
    said = wire.parse(wire.SaidHello, wire.heard(record))
    signed = SignedHello(said.text, said.signature)
    try:
        signed.require_sound()
    except Decline as decline:
        raise Refusal("malformed") from decline
    return signed


def nonce_of(record: RecordDict) -> bytes:
    """Return what a site revealed; Refusal for anything else."""
    try:
        return bytes.fromhex(wire.parse(wire.Revealed, wire.heard(record)).nonce)
    except ValueError as error:
        raise Refusal("malformed") from error


def dealt_of(record: RecordDict) -> dict[str, str]:
    """Return the sealed shares that a site dealt, by place; Refusal for anything else."""
    return wire.parse(wire.Dealt, wire.heard(record)).dealt
