"""What server and sites say to each other beside training, to mask updates and to open their sum."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mpssl_fed.config import Config
from mpssl_fed.federation.messages import ARRAYS, CONFIG, SentConfig, TrainRequest, only, scalar
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.weights import NUMPY_STYPE, npy_header, npy_values
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.shared.noise import SharedNoise
from mpssl_fed.secure.epoch import View
from mpssl_fed.secure.keys import Integers
from mpssl_fed.secure.terms import MOST_OF_FEW, MOST_SITES, Terms

ACTION = "secure"
"""Flower's message type of all of them is ``query.secure``."""
MESSAGE_TYPE = f"query.{ACTION}"
MASKED = "masked"
"""The one array of a masked reply: uint64, an entry a weight in sorted order of names, and the weight in the mean as the last."""
MOST_BODY = 16 << 20

Phase = Literal["hello", "reveal", "join", "sign", "open"]
"""hello: fresh keys. reveal: all hellos, for the draw of a graph of few neighbours. join: the same, for sealed shares.
sign: a view, for a signature. open: a view, for shares."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


B = TypeVar("B", bound=_Body)


class SaidHello(_Body):
    """A signed hello."""

    text: str = Field(max_length=1 << 16)
    signature: str = Field(max_length=128)


class Hellos(_Body):
    """The hellos of an epoch; with few neighbours, to join, what all sites revealed, in hexadecimal by place."""

    hellos: list[SaidHello] = Field(max_length=MOST_OF_FEW)
    nonces: list[str] = Field([], max_length=MOST_OF_FEW)


class Revealed(_Body):
    """A site's part in the draw of a graph, in hexadecimal."""

    nonce: str = Field(max_length=64)


class Dealt(_Body):
    """Sealed shares, in hexadecimal, by place."""

    dealt: dict[str, str] = Field(max_length=MOST_OF_FEW)


class Opening(_Body):
    """A view of a sum, of an epoch, with the signatures of its survivors by place (none where the terms want none). inbox: as in
    :class:`Task`, for a site that was not asked for the sum or did not answer."""

    epoch: str = Field(max_length=64)
    slot: int
    round: int = Field(ge=1)
    participants: list[int] = Field(max_length=MOST_OF_FEW)
    survivors: list[int] = Field(max_length=MOST_OF_FEW)
    request: str = Field(max_length=64)
    signatures: dict[str, str] = Field({}, max_length=64)
    inbox: dict[str, str] = Field({}, max_length=MOST_OF_FEW)

    def view(self, run: str) -> View:
        """Return what a site signs and opens."""
        return View(self.slot, run, self.round, tuple(self.participants), tuple(self.survivors), self.request)


class Signature(_Body):
    """A site's signature under a view."""

    signature: str = Field(max_length=128)


class Opened(_Body):
    """A site's answer: shares in hexadecimal by place."""

    seeds: dict[str, str] = Field(max_length=MOST_OF_FEW)
    slots: dict[str, str] = Field(max_length=MOST_OF_FEW)


class Task(_Body):
    """What a train message says where the update is to be masked. inbox: sealed shares for this site, by who dealt them."""

    epoch: str = Field(max_length=64)
    slot: int
    participants: list[int] = Field(max_length=MOST_OF_FEW)
    inbox: dict[str, str] = Field(max_length=MOST_OF_FEW)


def parse(kind: type[B], text: str) -> B:
    """Return the body in ``text``; Refusal ``malformed`` for anything else."""
    try:
        if len(text) > MOST_BODY:
            raise Refusal("malformed")
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise Refusal("malformed") from error


def request_name(request: TrainRequest, epoch: str, slot: int, participants: list[int]) -> str:
    """Return the name (64 hex digits) of all that decides what a sum is made of, the same at the server and at every site that is
    asked alike: config, run, round, weights, epoch, slot and P. Refusal for weights that are no arrays of float32."""
    total = hashlib.sha256(f"{request.sent.sha256} {request.sent.run_id} {request.round}\n".encode())
    for key in sorted(request.weights):
        values = npy_values(request.weights[key])  # a relay writes other headers
        total.update(f"{len(key)}:{key}{values.shape}\n".encode())
        total.update(values.tobytes())
    total.update(json.dumps([epoch, slot, participants]).encode())
    return total.hexdigest()


@dataclass(frozen=True)
class SecureRequest:
    """One message about a sum of a run."""

    sent: SentConfig
    phase: str
    body: str = "{}"

    def to_record(self) -> RecordDict:
        """Return the content of the Flower message."""
        return RecordDict({CONFIG: ConfigRecord({**self.sent.header(), "phase": self.phase, "body": self.body})})

    def config(self) -> Config:
        """Return the config that the message carries; Refusal when this version does not accept it."""
        return self.sent.config()

    @staticmethod
    def from_record(record: RecordDict) -> SecureRequest:
        """Return the request in ``record``; Refusal as for a train message."""
        header = only(record, CONFIG, ConfigRecord)
        return SecureRequest(SentConfig.in_header(header), scalar(header, "phase", str), scalar(header, "body", str))


def said(body: str) -> RecordDict:
    """Return the content of a site's answer."""
    return RecordDict({CONFIG: ConfigRecord({"body": body})})


def heard(record: RecordDict) -> str:
    """Return what a site answered; Refusal for another record."""
    return str(scalar(only(record, CONFIG, ConfigRecord), "body", str))


def masked_record(vector: Integers) -> RecordDict:
    """Return the content of a masked reply: one array, and nothing beside it."""
    data = b"".join((npy_header(vector.shape, "<u8"), vector.astype("<u8", copy=False).data))
    return RecordDict({ARRAYS: ArrayRecord({MASKED: Array("uint64", vector.shape, NUMPY_STYPE, data)})})


def masked_of(record: RecordDict, length: int) -> Integers:
    """Return the vector of a masked reply; Refusal unless it is one array of ``length`` integers and nothing beside it."""
    if set(record) != {ARRAYS}:
        raise Refusal("malformed")
    arrays = only(record, ARRAYS, ArrayRecord)
    if set(arrays) != {MASKED}:
        raise Refusal("misshapen")
    array = arrays[MASKED]
    if array.stype != NUMPY_STYPE or array.dtype != "uint64" or tuple(array.shape) != (length,):
        raise Refusal("misshapen")
    return npy_values(array, "<u8").astype(np.uint64, copy=False)


def terms_of(config: Config) -> Terms:
    """Return the terms that a config proposes; floors of sites may raise them."""
    federation, noise = config.federation, noise_of(config)
    secure = federation.secure
    return Terms(
        min_sites=max(secure.min_sites, min(federation.min_sites, MOST_OF_FEW if secure.neighbours == "few" else MOST_SITES)),
        threshold=secure.threshold,
        colluding=secure.colluding,
        signed=False,
        slots=secure.slots,
        weighted=federation.weighting == "size",
        largest_weight=federation.max_examples,
        range=secure.range,
        unit=0.0 if noise is None else noise.grid,
        sigma=0.0 if noise is None else noise.sigma_of_a_site,
        clip=0.0 if noise is None else noise.clip,
        few=secure.neighbours == "few",
    )


def noise_of(config: Config) -> SharedNoise | None:
    """Return the noise of a sum as the plan of ``config`` has it; None where each site has its own."""
    if not config.privacy.shared:
        return None
    plan = plan_for(config)
    return plan.sharing(plan.mechanisms()["gradient"])
