"""A site's life: load its data, train a round from the global weights, keep its latents, release its classifier."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpssl_fed.config import Config
from mpssl_fed.config.leaves import flat, leaves
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.messages import EXAMPLES, REPLY_METRICS, TrainReply, TrainRequest
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.budget import Budget, Reserved, refuse_reads, simulated_budget
from mpssl_fed.federation.site.state import Entry, SiteState, snapshot
from mpssl_fed.federation.weights import bound, digest, from_record
from mpssl_fed.method import Learner, build_learner
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.models import Weights
from mpssl_fed.privacy.build import private_data
from mpssl_fed.privacy.noise import Noise
from mpssl_fed.privacy.plan import plan_for

RELEASED_ONCE = ("source.rows",)
"""Learner state that was read from private data once a run, whatever the weights: P-SSL's foundation probabilities."""


@dataclass(frozen=True)
class Site:
    """One data owner: number ``partition``, with everything that stays there under ``folder``.

    noise: where draws and noise come from, for tests; by default what ``privacy.noise`` names. granted: what the policy of a
    deployed site grants to a config; by default a simulated site's own budget. proceed: called before each step; what it raises
    ends the round.
    """

    partition: int
    folder: Path
    noise: Noise | None = None
    granted: Callable[[Config], Budget] | None = None
    proceed: Callable[[], None] | None = None

    def train_round(self, request: TrainRequest) -> TrainReply:
        """Return the classifier after ``local_steps`` steps from the request's weights.

        The same request again gets the stored reply. The same round with other weights trains anew from the latents before
        that round. Nothing is charged before all that is to be trained has been built. Raises Refusal for weights that are
        misshapen, not finite or too large, for a config that is not the run's, and when training diverges.
        """
        started = time.perf_counter()
        config = request.config()
        torch.set_num_threads(config.runtime.threads)
        classifier = parts.classifier(config)
        weights = from_record(request.weights, classifier.shared_state())
        sha256 = digest(weights)
        state, settings = SiteState(self.folder), settings_of(config)
        state.require(request.plan.run_id, settings)
        stored = state.stored_reply(request.plan.run_id, request.round, sha256)
        if stored is not None:
            return stored

        before = state.before(request.plan.run_id, request.round)
        budget = simulated_budget(config, self.folder) if self.granted is None else self.granted(config)
        private, charge = None, Reserved()
        labelled = parts.labelled(config, self.partition)
        if budget is not None and budget.plan is None:
            budget.mark_unaccounted(request.plan.run_id, labelled)
        elif budget is not None:
            private = budget.releases(classifier, labelled, parts.task(config).flip, charge, self.noise)
        learner = build_site_learner(config, self.partition, private)
        if self.proceed is not None:
            learner.proceed = self.proceed
        first = before is None
        if before is not None:
            learner.load_state(before)
        before = snapshot(learner.state())
        classifier.load_shared(weights)
        if budget is not None and budget.plan is not None:
            charge.by = budget.reserve(request.plan.run_id, request.round, first, labelled)
        trained_from = time.perf_counter()
        losses = learner.train(request.round, config.federation.local_steps)
        trained_to = time.perf_counter()

        update = classifier.shared_state()
        _require_sound(update)
        metrics = {key: float(losses[key]) for key in REPLY_METRICS if key in losses}
        metrics[EXAMPLES] = float((budget and budget.public_size) or len(labelled))
        metrics["serialise_s"] = time.perf_counter() - started - (trained_to - trained_from)
        reply = TrainReply(update, metrics)
        after = snapshot(learner.state())
        kept = {key: after[key].clone() for key in RELEASED_ONCE if key in after}  # the round may be asked anew
        numbers = {key: value for key, value in losses.items() if key == "gap" or key not in REPLY_METRICS}
        state.save(Entry(request.plan.run_id, request.round, sha256, before | kept, after, reply, numbers, settings))
        return reply


def settings_of(config: Config) -> dict[str, Any]:
    """Return what a run may not change between its rounds: every key that a site reads, but where its files lie."""
    values = flat(config.dump(), Config)
    read = (leaf for leaf in leaves(Config) if leaf.mark.who != "ignored" and leaf.mark.code != "path")
    return {leaf.key: values[leaf.key] for leaf in read}


def build_site_learner(config: Config, site: int, private: PrivateData | None = None) -> Learner:
    """Return the learner of a simulated site, around the process's classifier, in its initial state.

    private: its releases; without them exact reads or, under differential privacy, none at all.
    """
    labelled = parts.labelled(config, site)
    if not len(labelled) and not config.privacy.on:
        raise UserError(f"site {site} holds no labelled image; lower federation.sites or change data.partition")
    classifier, flip = parts.classifier(config), parts.task(config).flip
    if private is None and config.privacy.on:
        private = private_data(config, classifier, labelled, flip=flip, plan=plan_for(config), charge=refuse_reads)
    return build_learner(
        config,
        classifier,
        parts.generator(config),
        labelled,
        flip=flip,
        site=site,
        unlabeled=parts.unlabeled(config, site),
        private=private,
    )


def _require_sound(update: Weights) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in update.values()):
        raise Refusal("non-finite")
    if any(value.numel() and float(value.abs().max()) > bound(key) for key, value in update.items()):
        raise Refusal("too-large")
