"""A member as JSON, for simulations: their sites live from message to message on disk. A deployed site never writes its keys."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mpssl_fed.secure.epoch import Epoch, SignedHello, View
from mpssl_fed.secure.member import Answer, Member, Slot
from mpssl_fed.secure.terms import Terms


def dump(member: Member) -> str:
    """Return all of ``member``, secrets too."""
    return json.dumps(
        {
            "identity": member.identity.private_bytes_raw().hex(),
            "proposed": asdict(member.proposed),
            "box": None if member.box is None else member.box.private_bytes_raw().hex(),
            "nonce": member.nonce.hex(),
            "hello": member.hello.dump(),
            "slots": [_slot(one) for one in member.slots],
            "hellos": None if member.epoch is None else [one.dump() for one in member.epoch.hellos],
            "clipped": member.clipped,
            "graph": member.graph.hex(),
            "seed": "" if member.epoch is None else member.epoch.seed.hex(),
            "dealt": {str(place): sealed.hex() for place, sealed in member.dealt.items()},
        }
    )


def load(text: str) -> Member:
    """Return what :func:`dump` wrote."""
    found = json.loads(text)
    proposed = Terms(**found["proposed"])
    hellos, epoch = found["hellos"], None
    if hellos is not None:
        epoch = replace(Epoch.of([SignedHello.load(one) for one in hellos], proposed), seed=bytes.fromhex(found["seed"]))
    return Member(
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(found["identity"])),
        proposed,
        None if found["box"] is None else X25519PrivateKey.from_private_bytes(bytes.fromhex(found["box"])),
        bytes.fromhex(found["nonce"]),
        [_slot_of(one) for one in found["slots"]],
        SignedHello.load(found["hello"]),
        epoch,
        found["clipped"],
        {int(place): bytes.fromhex(sealed) for place, sealed in found["dealt"].items()},
        bytes.fromhex(found["graph"]),
    )


def _slot(one: Slot) -> dict[str, Any]:
    return {
        "secret": _hex(one.secret),
        "seed": _hex(one.seed),
        "held": {str(place): [share.hex() for share in pair] for place, pair in one.held.items()},
        "participants": list(one.participants),
        "request": one.request,
        "run": one.run,
        "round": one.round,
        "view": None if one.view is None else asdict(one.view),
        "answer": None if one.answer is None else one.answer.dump(),
    }


def _slot_of(found: dict[str, Any]) -> Slot:
    held = {int(place): (bytes.fromhex(pair[0]), bytes.fromhex(pair[1])) for place, pair in found["held"].items()}
    return Slot(
        _bytes(found["secret"]),
        _bytes(found["seed"]),
        held,
        tuple(found["participants"]),
        found["request"],
        found["run"],
        found["round"],
        None if found["view"] is None else view_of(found["view"]),
        None if found["answer"] is None else Answer.load(found["answer"]),
    )


def view_of(found: dict[str, Any]) -> View:
    """Return the view of its fields as JSON has them."""
    return View(
        found["slot"], found["run"], found["round"], tuple(found["participants"]), tuple(found["survivors"]), found["request"]
    )


def _hex(secret: bytes | None) -> str | None:
    return None if secret is None else secret.hex()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
