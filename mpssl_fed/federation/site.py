"""A site's life: load its data, train a round from the global weights, keep its latents, release its classifier."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import EXAMPLES, REPLY_METRICS, TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site_state import Entry, SiteState, snapshot
from mpssl_fed.federation.weights import Weights, digest, from_record
from mpssl_fed.method import build_learner


@dataclass(frozen=True)
class Site:
    """One data owner of a simulation: number ``partition``, with everything that stays there under ``folder``."""

    partition: int
    folder: Path

    def train_round(self, request: TrainRequest) -> TrainReply:
        """Return the classifier after ``local_steps`` steps from the request's weights.

        The same request again gets the stored reply. The same round with other weights trains anew from the latents before
        that round. Raises Refusal for weights that are misshapen or not finite, and when training diverges.
        """
        started = time.perf_counter()
        config = request.config()
        torch.set_num_threads(config.runtime.threads)
        classifier = parts.classifier(config)
        weights = from_record(request.weights, classifier.shared_state())
        sha256 = digest(weights)
        state = SiteState(self.folder)
        stored = state.stored_reply(request.plan.run_id, request.round, sha256)
        if stored is not None:
            return stored

        learner = build_site_learner(config, self.partition)
        before = state.before(request.plan.run_id, request.round)
        if before is not None:
            learner.load_state(before)
        before = snapshot(learner.state())
        classifier.load_shared(weights)
        trained_from = time.perf_counter()
        losses = learner.train(request.round, config.federation.local_steps)
        trained_to = time.perf_counter()

        update = classifier.shared_state()
        _require_finite(update)
        metrics = {key: float(losses[key]) for key in REPLY_METRICS if key in losses}
        metrics[EXAMPLES] = float(_public_count(config, self.partition))
        metrics["serialise_s"] = time.perf_counter() - started - (trained_to - trained_from)
        reply = TrainReply(update, metrics)
        state.save(Entry(request.plan.run_id, request.round, sha256, before, snapshot(learner.state()), reply))
        return reply


def build_site_learner(config: Config, site: int) -> Any:
    """Return the learner of a simulated site, around the process's classifier, in its initial state."""
    labelled = parts.labelled(config, site)
    if not len(labelled):
        raise UserError(f"site {site} holds no labelled image; lower federation.sites or change data.partition")
    return build_learner(
        config,
        parts.classifier(config),
        parts.generator(config),
        labelled,
        flip=parts.task(config).flip,
        site=site,
        unlabeled=parts.unlabeled(config, site),
        private=_private_data(config, labelled),
    )


def _private_data(config: Config, labelled: Images) -> Any:  # noqa: ARG001
    """Return the source of noised releases about ``labelled``, or None for exact reads (scope off)."""
    if not config.privacy.on:
        return None
    raise UserError(
        f"privacy.scope={config.privacy.scope}: this version has no differentially private releases; set privacy.scope=off"
    )


def check_privacy(config: Config) -> None:
    """Raise UserError, before any site is asked, when this version cannot keep what ``config.privacy`` promises."""
    if config.privacy.on:
        _private_data(config, parts.labelled(config, 0))


def _public_count(config: Config, site: int) -> int:
    """Return the site's weight in the average; under DP the declared size, never the exact count."""
    return config.privacy.public_size or 1 if config.privacy.on else len(parts.labelled(config, site))


def _require_finite(update: Weights) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in update.values()):
        raise Refusal("non-finite")
