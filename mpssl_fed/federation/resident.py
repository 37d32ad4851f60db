"""What a site's daemon keeps between messages: policy, data, generator, state; and how it answers one message."""

from __future__ import annotations

import hashlib
import logging
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mpssl_fed.config import PROTOCOL_VERSION, Config
from mpssl_fed.federation import parts, wire
from mpssl_fed.federation.messages import EXAMPLES, REPLY_METRICS, Plan, TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site import Site
from mpssl_fed.federation.site_local import OwnData
from mpssl_fed.privacy.policy import Granted, Policy, Request, decide

log = logging.getLogger("mpssl_fed.daemon")
MOST_WAITING = 4


class Header(BaseModel):
    """The scalars of a train request; nothing else is read, anything else is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    protocol: int
    run_id: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.]{0,63}$")
    round: int = Field(ge=1, le=1_000_000)
    config: str = Field(max_length=wire.MOST_HEADER)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass
class Resident:
    """One deployed site. ``number`` seeds its public streams; ``state`` is its 0700 folder; ``generator_path`` is the owner's."""

    number: int
    state: Path
    data: OwnData
    policy: Policy | None
    generator_path: str | None = None
    device: str | None = None
    refused: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    last: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts.hold(self.data)
        self.site = Site(self.number, self.state / "rounds")
        # One thread trains, one message at a time: the same thread settings, the same bits.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="train")
        self._waiting = 0

    def train(self, body: bytes) -> bytes:
        """Answer one train request; Refusal with a code for everything that is not to be answered."""
        try:
            if self._waiting >= MOST_WAITING:
                raise Refusal("busy")
            self._waiting += 1
            try:
                return self._worker.submit(self._round, body).result()
            finally:
                self._waiting -= 1
        except Refusal as refusal:
            self._count(refusal.code)
            raise
        except Exception as error:  # noqa: BLE001  its text may quote private data: neither server nor log may have it
            log.error("a round failed: %s at %s", type(error).__name__, _where(error))
            self._count("site-failed")
            raise Refusal("site-failed") from None

    def status(self) -> dict[str, Any]:
        """Return what the owner asks for with ``mpssl-fed site status``."""
        return {
            "site": self.number,
            "at_work": self._waiting,
            "answered": self.answered,
            "refused": dict(self.refused),
            "last": self.last,
        }

    def _round(self, body: bytes) -> bytes:
        started = time.perf_counter()
        arrays, header = _read(body)
        if header.protocol != PROTOCOL_VERSION:
            raise Refusal("protocol")
        if hashlib.sha256(header.config.encode()).hexdigest() != header.sha256:
            raise Refusal("config")
        weights = ArrayRecord({key: Array(value) for key, value in arrays.items()})
        asked = TrainRequest(Plan(header.run_id, header.config, header.sha256), header.round, weights)
        config, granted = self._admit(asked.config(), sum(value.size for value in arrays.values()))
        if header.round > config.federation.rounds:
            raise Refusal("rounds")
        reply = self.site.train_round(TrainRequest(Plan.of(header.run_id, config), header.round, weights))
        self.answered += 1
        self.last = {"run": header.run_id, "round": header.round, "seconds": round(time.perf_counter() - started, 3)}
        log.info("run %s round %d answered in %.2f s", header.run_id, header.round, self.last["seconds"])
        return _released(reply, granted)

    def _admit(self, config: Config, entries: int) -> tuple[Config, Granted]:
        """Return the config as this machine runs it and what the policy grants; Refusal with the first reason against it."""
        self._decide(Request.of(config, parameters=entries, metrics=self._metrics))
        self.data.labelled(config)
        local = config.generator.model_copy(update={"path": self.generator_path})
        runtime = config.runtime.model_copy(update={} if self.device is None else {"device": self.device})
        config = config.model_copy(update={"generator": local, "runtime": runtime})
        generator = parts.generator(config)
        fingerprint = None if generator is None else generator.state_hash()
        return config, self._decide(Request.of(_without_paths(config), None, entries, fingerprint, self._metrics))

    def _decide(self, request: Request) -> Granted:
        decision = decide(self.policy, request)
        for refusal in decision.refusals:
            log.warning("declined (%s): %s", refusal.code, refusal.text)
        if decision.granted is None:
            raise Refusal(decision.codes[0])
        return decision.granted

    @property
    def _metrics(self) -> tuple[str, ...]:
        """The numbers beside the weights that leave: those the owner listed, of those a reply has."""
        return () if self.policy is None else tuple(name for name in self.policy.metrics if name in REPLY_METRICS)

    def _count(self, code: str) -> None:
        self.refused[code] += 1
        log.warning("refused: %s", code)


def _read(body: bytes) -> tuple[wire.Arrays, Header]:
    try:
        arrays, text = wire.unpack(body, "request")
        return arrays, Header.model_validate_json(text)
    except (ValueError, ValidationError) as error:
        raise Refusal("malformed") from error


def _released(reply: TrainReply, granted: Granted) -> bytes:
    """Return the bytes that leave: the classifier's weights and the scalars that the policy allows, nothing else."""
    weights = {key: np.asarray(value.numpy(), dtype=np.float32) for key, value in reply.weights.items()}
    allowed = {EXAMPLES, *granted.metrics}
    return wire.pack(weights, "metrics", {key: float(value) for key, value in reply.metrics.items() if key in allowed})


def _without_paths(config: Config) -> Config:
    """Return ``config`` without the owner's own path, which is no path from outside."""
    return config.model_copy(update={"generator": config.generator.model_copy(update={"path": None})})


def _where(error: BaseException) -> str:
    """Return file and line of each frame, without the text of any value."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
