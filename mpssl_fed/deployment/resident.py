"""What a site's daemon keeps between messages: policy, data, generator, state; and how it answers one message."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.deployment import wire
from mpssl_fed.deployment.own_data import OwnData, split_key
from mpssl_fed.deployment.own_generator import OwnGenerator
from mpssl_fed.deployment.owner_report import Owned, lifetime, whereabouts, write_site_report
from mpssl_fed.deployment.site_log import where
from mpssl_fed.deployment.worker import LIMIT_S, Worker
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import (
    EXAMPLES,
    NOISE_STD,
    SentConfig,
    TableReply,
    TrainReply,
    TrainRequest,
    require_hash,
    require_protocol,
)
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.secure_messages import MASKED, MOST_BODY, SecureRequest
from mpssl_fed.federation.site.budget import decided, policy_budget, refuse_hopeless
from mpssl_fed.federation.site.identity import fingerprint_of, identity_key
from mpssl_fed.federation.site.masking import InMemory, Masking, in_words, require_masks
from mpssl_fed.federation.site.site import Site
from mpssl_fed.federation.site.spending import Spending
from mpssl_fed.federation.site.state import SiteState
from mpssl_fed.federation.weights import bound
from mpssl_fed.files import parse_json
from mpssl_fed.generators.base import Generator
from mpssl_fed.method.parts import Parts
from mpssl_fed.privacy.egress import ArraySpec, NumberSpec, allow, like
from mpssl_fed.privacy.ledger import Ledger
from mpssl_fed.privacy.ledger_files import LedgerError
from mpssl_fed.privacy.policy import Policy
from mpssl_fed.reply_metrics import CONFUSION, LARGEST_NUMBER, REPLY_METRICS
from mpssl_fed.secure.keys import Integers
from mpssl_fed.secure.terms import Floor

log = logging.getLogger("mpssl_fed.daemon")
LEDGER = "ledger.sqlite"
"""In the state folder; `wipe` never touches it."""


class SentHeader(BaseModel):
    """The scalars of every request; nothing else is read, anything else is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    protocol: int
    run_id: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.]{0,63}$")
    config: str = Field(max_length=wire.MOST_HEADER)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    def sent(self) -> SentConfig:
        """Return the config; Refusal for another protocol or a hash that does not fit."""
        require_protocol(self.protocol)
        require_hash(self.config, self.sha256)
        return SentConfig(self.run_id, self.config, self.sha256)


class Header(SentHeader):
    """Those of a train or evaluate request."""

    round: int = Field(ge=1, le=1_000_000)
    secure: str = Field("", max_length=wire.MOST_HEADER)


class SecureHeader(SentHeader):
    """Those of a message about a sum."""

    phase: str = Field(max_length=16)
    body: str = Field(max_length=MOST_BODY)


@dataclass
class Resident:
    """One deployed site. ``number`` seeds its public streams; ``state`` is its 0700 folder; ``generator_path`` is the owner's.

    ledger: by default LEDGER in ``state``, kept for the process's life so that its chain is checked once. A round that takes
    longer than ``limit_s`` is given up; what it reserved in the ledger stays spent.
    """

    number: int
    state: Path
    data: OwnData
    policy: Policy | None
    generator_path: str | None = None
    device: str | None = None
    warnings: tuple[str, ...] = ()
    limit_s: float = LIMIT_S
    refused: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    ledger: Ledger | None = None

    def __post_init__(self) -> None:
        self._ledger = self.ledger or Ledger(self.state / LEDGER)
        self._generator = OwnGenerator(self.policy, self.generator_path, self.state / "cache" / "generators")
        self._worker = Worker(self.limit_s)
        self.site = Site(self.number, self.state / "rounds", proceed=self._worker.proceed)
        SiteState(self.site.folder).tidy()
        self._in_memory = InMemory()

    def train(self, body: bytes) -> bytes:
        """Answer one train request; Refusal with a code for everything that is not to be answered."""
        return self._answered(lambda: self._round(body))

    def evaluate(self, body: bytes) -> bytes:
        """Answer one evaluate request, as :meth:`train` does."""
        return self._answered(lambda: self._evaluation(body))

    def secure(self, body: bytes) -> bytes:
        """Answer one message about a sum of masked updates, as :meth:`train` does."""
        return self._answered(lambda: self._sum(body))

    def _answered(self, work: Callable[[], bytes]) -> bytes:
        try:
            return self._worker.do(work)
        except Refusal as refusal:
            self._count(refusal.code)
            raise
        except UserError as error:  # found before anything was charged: what the config asks for does not fit together
            log.warning("declined (config): it cannot be built here: %s at %s", type(error).__name__, where(error))
            self._count("config")
            raise Refusal("config") from None
        except Exception as error:  # noqa: BLE001  its text may quote private data: neither server nor log may have it
            log.error("a round failed: %s at %s", type(error).__name__, where(error))
            self._count("site-failed")
            raise Refusal("site-failed") from None

    def status(self) -> dict[str, Any]:
        """Return what the owner asks for with ``mpssl-fed site status``."""
        return {
            "site": self.number,
            "at_work": self._worker.waiting,
            "answered": self.answered,
            "refused": dict(self.refused),
            "dropped": dict(self.dropped),
            "last": self.last,
            "privacy": None if self.policy is None else self._lifetime(self.policy),
            "secure_aggregation": self._guarantee(),
            "ledger_head": whereabouts(self._ledger.files),
        }

    def _guarantee(self) -> dict[str, Any] | None:
        """Return what the owner's policy makes of sums: which guarantee holds, and in words."""
        if self.policy is None:
            return None
        asks, own = self.policy.secure_aggregation, fingerprint_of(self._identity)
        return asks.model_dump(mode="json") | {"fingerprint": own, "against": in_words(asks.required, bool(asks.peers))}

    def _lifetime(self, policy: Policy) -> dict[str, Any]:
        try:
            return dict(lifetime(self._ledger, policy))
        except LedgerError as error:
            return {"error": str(error)}

    @property
    def hung(self) -> bool:
        """Whether a round can neither be ended nor waited for any longer: only a new process answers again."""
        return self._worker.hung

    def _round(self, body: bytes) -> bytes:
        started = time.perf_counter()
        arrays, asked = self._asked(body)
        run, number = asked.sent.run_id, asked.round
        config, made, budget = self._admit(asked, sum(value.size for value in arrays.values()))
        require_masks(asked, config)
        round_ = (run, number, config, asked.weights, made, budget)
        if asked.secure:
            masked = self._masking.masked(asked, config, lambda: self.site.answer(*round_))
            trained = made.classifier.theta() if config.privacy.shared else made.classifier.shared_state()
            left = self._release_masked(masked, 1 + sum(value.numel() for value in trained.values()))
        else:
            left = self._release(self.site.train_round(*round_), arrays)
        self._done(asked, "round", started)
        if number in (1, config.federation.rounds):
            self._worker.later(lambda: self._report(run, config))
        return left

    def _sum(self, body: bytes) -> bytes:
        try:
            header = SecureHeader.model_validate(parse_json(body))
        except (ValueError, ValidationError) as error:
            raise Refusal("malformed") from error
        request = SecureRequest(header.sent(), header.phase, header.body)
        config = request.config()
        decided(self.policy, config, None, None, self._metrics)
        return self._masking.answer(request, config).encode("ascii")

    @property
    def _masking(self) -> Masking:
        """How this site takes part in sums: by its policy's floor, with keys that end with this process."""
        assert self.policy is not None
        asks = self.policy.secure_aggregation
        floor = Floor(asks.min_sites, asks.colluding, signed=bool(asks.peers))
        files = self._ledger.files
        return Masking(self.state, self._in_memory, floor, asks.peers, self._identity, None if files.head_beside else files.head)

    @cached_property
    def _identity(self) -> Ed25519PrivateKey:
        return identity_key(self.state)

    def _evaluation(self, body: bytes) -> bytes:
        started = time.perf_counter()
        arrays, asked = self._asked(body)
        config, made, budget = self._admit(asked, sum(value.size for value in arrays.values()))
        reply = self.site.evaluate(asked.sent.run_id, asked.round, config, asked.weights, made, budget)
        self._done(asked, "evaluation after round", started)
        return self._release_table(reply)

    def _done(self, asked: TrainRequest, what: str, started: float) -> None:
        self.answered += 1
        self.last = {"run": asked.sent.run_id, "round": asked.round, "seconds": round(time.perf_counter() - started, 3)}
        log.info("run %s %s %d answered in %.2f s", asked.sent.run_id, what, asked.round, self.last["seconds"])

    @staticmethod
    def _asked(body: bytes) -> tuple[wire.Arrays, TrainRequest]:
        arrays, header = _read(body)
        sent = header.sent()
        weights = ArrayRecord({key: Array(value) for key, value in arrays.items()})
        return arrays, TrainRequest(sent, header.round, weights, header.secure)

    def _release(self, reply: TrainReply, asked: wire.Arrays) -> bytes:
        """Return the bytes that leave: weights as asked and the listed numbers; the rest is dropped and counted."""
        weights = {key: np.asarray(value.numpy(), dtype=np.float32) for key, value in reply.weights.items()}
        listed = {name: NumberSpec(REPLY_METRICS[name].low, REPLY_METRICS[name].high) for name in self._metrics}
        numbers = {EXAMPLES: NumberSpec(1, LARGEST_NUMBER)} | listed
        arrays, scalars = allow(weights, like(asked, bound)), allow(reply.metrics, numbers)
        self.dropped.update(Counter(arrays.dropped) + Counter(scalars.dropped))
        if not arrays.complete or EXAMPLES not in scalars.record:
            raise Refusal("misshapen")
        return wire.pack(arrays.record, "metrics", scalars.record)

    def _release_masked(self, vector: Integers, length: int) -> bytes:
        """Return the bytes that leave of a masked round: an integer an entry that is summed, and the one of the site's weight."""
        passed = allow({MASKED: vector}, {MASKED: ArraySpec((length,), "uint64")})
        self.dropped.update(passed.dropped)
        if not passed.complete:
            raise Refusal("misshapen")
        return wire.pack(passed.record, "metrics", {})

    def _release_table(self, reply: TableReply) -> bytes:
        """Return the bytes that leave of an evaluation: the table and the std of its noise."""
        table = {CONFUSION: np.asarray(reply.counts.numpy(), dtype=np.float32)}
        listed = {CONFUSION: ArraySpec((len(self.data.classes),) * 2, largest=LARGEST_NUMBER)}
        arrays, scalars = allow(table, listed), allow({NOISE_STD: reply.noise_std}, {NOISE_STD: NumberSpec(0, LARGEST_NUMBER)})
        self.dropped.update(Counter(arrays.dropped) + Counter(scalars.dropped))
        if not (arrays.complete and scalars.complete):
            raise Refusal("misshapen")
        return wire.pack(arrays.record, "metrics", scalars.record)

    def _report(self, run_id: str, config: Config) -> None:
        """Write the owner's report, after the answer has left; that it fails costs the round nothing."""
        assert self.policy is not None
        try:
            images = self.data.labelled(config)
            owned = Owned(self.state, self.number, images, self.policy, self._ledger, self.warnings, self._key(config))
            write_site_report(owned, config, run_id)
        except Exception as error:  # noqa: BLE001  as in train: no text of an error may reach the log
            log.error("the site's report was not written: %s at %s", type(error).__name__, where(error))

    def _admit(self, asked: TrainRequest, entries: int) -> tuple[Config, Parts, Spending]:
        """Return the config as this machine runs it, this site's parts, and what its policy grants; Refusal with the first reason
        of the policy against it. What is quick to tell comes first: a refusal costs the server nothing."""
        config, run = asked.config(), asked.sent.run_id
        decided(self.policy, config, entries, None, self._metrics)
        if asked.round > config.federation.rounds:
            raise Refusal("rounds")
        images = self.data.labelled(config)
        if config.privacy.on and config.privacy.unit == "subject" and images.subjects is None:
            raise Refusal("unit")
        refuse_hopeless(self.policy, config, self._ledger, run)
        runtime = config.runtime.model_copy(update={"device": self.device or "auto"})
        local, generator, fingerprint = self._generator.load(config.model_copy(update={"runtime": runtime}))
        made = _parts(local, images, generator, self._key(config))
        self.site.admit(run, local, asked.weights, made.classifier)
        entries = max(entries, sum(parameter.numel() for parameter in made.classifier.parameters()))  # frozen ones, too
        return local, made, policy_budget(self.policy, config, self._ledger, entries, fingerprint, self._metrics)

    def _key(self, config: Config) -> bytes:
        """Return the key by which this site holds images out; none is made before a run holds any out."""
        return split_key(self.state) if config.federation.evaluate_at_sites.times else b""

    @property
    def _metrics(self) -> tuple[str, ...]:
        """The numbers beside the weights that leave: those the owner listed."""
        return () if self.policy is None else tuple(name for name in self.policy.metrics if name in REPLY_METRICS)

    def _count(self, code: str) -> None:
        self.refused[code] += 1
        log.warning("refused: %s", code)


def _parts(config: Config, images: Images, generator: Generator | None, key: bytes = b"") -> Parts:
    try:
        return parts.own(config, images, generator, key)
    except UserError as error:  # of the config and of what is installed; no image is read to build a classifier
        log.warning("declined (model): %s", error)
        raise Refusal("model") from None


def _read(body: bytes) -> tuple[wire.Arrays, Header]:
    try:
        arrays, text = wire.unpack(body, "request")
        return arrays, Header.model_validate(parse_json(text))
    except (ValueError, ValidationError) as error:
        raise Refusal("malformed") from error
