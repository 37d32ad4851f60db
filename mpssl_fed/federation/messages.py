"""The typed messages between server and site, and their form on the wire (Flower RecordDicts)."""

from __future__ import annotations

import hashlib
import sys
from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from mpssl_fed.config import PROTOCOL_VERSION, Config, from_json
from mpssl_fed.config.federation import MOST_SITES
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.weights import from_record, require_like, to_record
from mpssl_fed.models import Weights
from mpssl_fed.reply_metrics import CONFUSION, LARGEST_NUMBER, REPLY_METRICS

ARRAYS, CONFIG, METRICS, SITE = "arrays", "config", "metrics", "site"

EXAMPLES = "num-examples"
"""Beside REPLY_METRICS the only scalar a reply carries, and always: the site's weight in the average."""

NOISE_STD = "noise-std"
"""The only scalar beside a table: public, since it follows from the plan; 0 of exact counts."""

MOST_SCALARS, LARGEST_SITE = 64, 2**31 - 1
MOST_FLOAT = sys.float_info.max


@dataclass(frozen=True)
class SentConfig:
    """The config of a run as it travels: canonical JSON and its SHA-256. Made once a run, not once a message."""

    run_id: str
    config_json: str
    sha256: str

    @staticmethod
    def of(run_id: str, config: Config) -> SentConfig:
        """Return ``config`` as it travels in the run ``run_id``."""
        text = config.canonical_json()
        return SentConfig(run_id, text, hashlib.sha256(text.encode()).hexdigest())

    @staticmethod
    def in_header(header: ConfigRecord) -> SentConfig:
        """Return the config in the header of a message; Refusal for another protocol, a missing key or a hash that does not fit."""
        require_protocol(header.get("protocol"))
        text, sha256 = scalar(header, "config", str), scalar(header, "sha256", str)
        require_hash(text, sha256)
        return SentConfig(scalar(header, "run-id", str), text, sha256)

    def header(self) -> dict[str, int | str]:
        """Return what says it in the header of a message."""
        return {"protocol": PROTOCOL_VERSION, "run-id": self.run_id, "config": self.config_json, "sha256": self.sha256}

    def config(self) -> Config:
        """Return the config; Refusal when this version does not accept it."""
        try:
            return _parsed(self.config_json)
        except (UserError, ValueError) as error:
            raise Refusal("config") from error


@dataclass(frozen=True)
class TrainRequest:
    """What the server asks of a site: train one round from the global ``weights`` or, in a message of type evaluate, evaluate those
    that came out of the round.

    secure: JSON of what masks the update (:class:`mpssl_fed.federation.secure_messages.Task`); empty: it is answered in clear.
    """

    sent: SentConfig
    round: int
    weights: ArrayRecord
    secure: str = ""

    def to_record(self) -> RecordDict:
        """Return the content of the Flower message: one ArrayRecord, one ConfigRecord of scalars."""
        secure = {"secure": self.secure} if self.secure else {}
        header = ConfigRecord({**self.sent.header(), "round": self.round, **secure})
        return RecordDict({ARRAYS: self.weights, CONFIG: header})

    @staticmethod
    def from_record(record: RecordDict) -> TrainRequest:
        """Return the request in ``record``; Refusal for another protocol, a missing key or a hash that does not fit."""
        header = only(record, CONFIG, ConfigRecord)
        arrays = only(record, ARRAYS, ArrayRecord)
        sent = SentConfig.in_header(header)
        secure = scalar(header, "secure", str) if "secure" in header else ""
        return TrainRequest(sent, scalar(header, "round", int), arrays, secure)

    def config(self) -> Config:
        """Return the config that the message carries; Refusal when this version does not accept it."""
        return self.sent.config()


@dataclass(frozen=True)
class TrainReply:
    """What a site releases after a round: its classifier weights and a few scalars."""

    weights: Weights
    metrics: dict[str, float]

    @property
    def examples(self) -> float:
        """The site's weight in the average: its labelled images, or the declared public size under DP."""
        return self.metrics[EXAMPLES]

    def to_record(self) -> RecordDict:
        """Return the content of the Flower reply: one ArrayRecord and one MetricRecord."""
        return RecordDict({ARRAYS: to_record(self.weights), METRICS: MetricRecord(dict(self.metrics))})

    @staticmethod
    def from_record(record: RecordDict, like: Mapping[str, Tensor], most_examples: float = LARGEST_NUMBER) -> TrainReply:
        """Return the reply in ``record``, which whoever runs the site may have made up.

        Refusal unless it is two records, its arrays are finite and shaped like ``like``, its size is a whole number from 1 to
        ``most_examples`` and every other number of REPLY_METRICS lies in its range; further scalars are not looked at.
        """
        metrics: Mapping[str, Any]
        if isinstance(record, Handed) and record.reply:
            weights, metrics = require_like(record.reply.weights, like), record.reply.metrics
        elif set(record) == {ARRAYS, METRICS}:
            metrics = only(record, METRICS, MetricRecord)
            weights = from_record(only(record, ARRAYS, ArrayRecord), like)
        else:
            raise Refusal("malformed")
        if len(metrics) > MOST_SCALARS:
            raise Refusal("malformed")
        known = {key: _number(metrics[key]) for key in (EXAMPLES, *REPLY_METRICS) if key in metrics}
        size = known.get(EXAMPLES, 0.0)
        if not 1 <= size <= most_examples or size != int(size):
            raise Refusal("size")
        if not all(one.low <= known[one.name] <= one.high for one in REPLY_METRICS.values() if one.name in known):
            raise Refusal("number")
        return TrainReply(weights, known)


class Handed(RecordDict):
    """The content of a reply on the machine of the server: the reply itself, packed only where somebody looks into the record.

    Nothing that comes over a wire is one. reply: None once it is packed: whoever looked may have changed the record.
    """

    def __init__(self, reply: TrainReply) -> None:
        super().__init__()
        self.reply: TrainReply | None = reply
        self.__dict__["_data"] = _Packing(self)  # what all of RecordDict's methods go through

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process as it is."""
        return (Handed, (self.reply,)) if self.reply else (RecordDict, (dict(self),))


class _Packing(UserDict[str, Any]):
    """The records of a :class:`Handed`, made at the first use."""

    def __init__(self, of: Handed) -> None:
        self._of = of

    @cached_property
    def data(self) -> dict[str, Any]:  # type: ignore[override]
        reply, self._of.reply = self._of.reply, None
        return dict(reply.to_record()) if reply else {}


@dataclass(frozen=True)
class TableReply:
    """What a site releases of an evaluation: counts [K, K], true class x named class, and the std of the noise in each."""

    counts: Tensor
    noise_std: float

    def to_record(self) -> RecordDict:
        """Return the content of the Flower reply: one ArrayRecord and one MetricRecord."""
        return RecordDict({ARRAYS: to_record({CONFUSION: self.counts}), METRICS: MetricRecord({NOISE_STD: self.noise_std})})

    @staticmethod
    def from_record(record: RecordDict, classes: int) -> TableReply:
        """Return the reply in ``record``, which whoever runs the site may have made up.

        Refusal unless it is two records, one table of ``classes`` x ``classes`` finite counts of at most LARGEST_NUMBER, none below
        0 without noise, and one std from 0 to LARGEST_NUMBER.
        """
        if set(record) != {ARRAYS, METRICS}:
            raise Refusal("malformed")
        metrics, like = only(record, METRICS, MetricRecord), {CONFUSION: torch.empty(classes, classes)}
        counts = from_record(only(record, ARRAYS, ArrayRecord), like, lambda _: LARGEST_NUMBER)[CONFUSION]
        if set(metrics) != {NOISE_STD}:
            raise Refusal("malformed")
        std = _number(metrics[NOISE_STD])
        if not 0 <= std <= LARGEST_NUMBER or (std == 0 and bool((counts < 0).any())):
            raise Refusal("number")
        return TableReply(counts, std)


@dataclass(frozen=True)
class SiteCard:
    """Who answers at a node: the site's number, and how many nodes a simulation has (0: a deployment)."""

    partition: int
    partitions: int

    def to_record(self) -> RecordDict:
        """Return the content of the reply to a query."""
        return RecordDict({SITE: ConfigRecord({"partition-id": self.partition, "num-partitions": self.partitions})})

    @staticmethod
    def from_record(record: RecordDict) -> SiteCard:
        """Return the card in ``record``; Refusal when it is not one."""
        card = only(record, SITE, ConfigRecord)
        site, sites = scalar(card, "partition-id", int), scalar(card, "num-partitions", int)
        if not (0 <= site <= LARGEST_SITE and 0 <= sites <= MOST_SITES):
            raise Refusal("number")
        return SiteCard(site, sites)


def query() -> RecordDict:
    """Return the content of the message that asks a node for its SiteCard."""
    return RecordDict({CONFIG: ConfigRecord({"protocol": PROTOCOL_VERSION})})


def require_protocol(version: object) -> None:
    """Raise Refusal for a message of another version's protocol."""
    if version != PROTOCOL_VERSION:
        raise Refusal("protocol")


def require_hash(config_json: str, sha256: str) -> None:
    """Raise Refusal for a config that is not the one of its hash."""
    if hashlib.sha256(config_json.encode()).hexdigest() != sha256:
        raise Refusal("config")


@lru_cache(maxsize=4)
def _parsed(config_json: str) -> Config:
    return from_json(config_json)


def only(record: RecordDict, key: str, kind: type[Any]) -> Any:
    """Return the part ``key`` of ``record``; Refusal unless it is one of ``kind``."""
    part = record.get(key)
    if not isinstance(part, kind):
        raise Refusal("malformed")
    return part


def _number(value: Any) -> float:
    """Return a number of a reply; Refusal for a list, an integer beyond any float, NaN and infinity."""
    if type(value) not in (int, float):
        raise Refusal("malformed")
    if not abs(value) <= MOST_FLOAT:
        raise Refusal("non-finite")
    return float(value)


def scalar(record: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    """Return the number or text ``key`` of a record; Refusal unless it is exactly of ``kind``."""
    value = record.get(key)
    if type(value) is not kind:
        raise Refusal("malformed")
    return value
