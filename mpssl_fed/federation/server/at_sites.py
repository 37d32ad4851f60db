"""Asking the sites how the global model does on what each holds out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import MessageType, RecordDict
from flwr.serverapp import Grid

from mpssl_fed.config import Config
from mpssl_fed.config.federation import evaluation_rounds
from mpssl_fed.federation.messages import SentConfig, TableReply, TrainRequest
from mpssl_fed.federation.server.collect import ask
from mpssl_fed.federation.server.confusion import told
from mpssl_fed.federation.weights import to_record
from mpssl_fed.models import Weights
from mpssl_fed.runs.progress import Progress


@dataclass(frozen=True)
class AtSites:
    """The evaluations of one run."""

    config: Config
    classes: tuple[str, ...]
    sent: SentConfig
    progress: Progress
    stop: threading.Event

    def after(self, number: int, weights: Weights, grid: Grid, nodes: Mapping[int, int]) -> dict[str, Any] | None:
        """Return what the sites at ``nodes`` tell of ``weights`` after round ``number``; None where no evaluation is due.

        See :func:`mpssl_fed.federation.server.confusion.told`; beside it how many were asked, missing, and left out by code. What a
        site told of the same round and weights before, it tells again without another charge.
        """
        federation, privacy = self.config.federation, self.config.privacy
        if number not in evaluation_rounds(federation.evaluate_at_sites.times, federation.rounds):
            return None
        content = TrainRequest(self.sent, number, to_record(weights)).to_record()
        answered = itertools.count(1)

        def read(record: RecordDict) -> TableReply:
            self.progress.step(f"evaluation after round {number}, sites that answered", next(answered), len(nodes))
            return TableReply.from_record(record, len(self.classes))

        contents = {site: (node, content) for site, node in nodes.items()}
        answers = ask(grid, contents, MessageType.EVALUATE, read, federation.deadline_s, self.stop)
        tables = {
            site: (reply.counts.double().numpy().astype(np.float64), reply.noise_std)  # type: ignore[attr-defined]
            for site, reply in answers.good.items()
        }
        found = told(tables, self.classes, privacy.unit if privacy.on else "image")
        return found | {"asked": len(nodes), "missing": answers.missing, "rejected": dict(sorted(answers.rejected.items()))}
