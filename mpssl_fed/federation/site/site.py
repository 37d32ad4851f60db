"""A site's life: load its data, train a round from the global weights, keep its latents, release its classifier."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord

from mpssl_fed.config import Config
from mpssl_fed.config.federation import evaluation_rounds
from mpssl_fed.config.leaves import flat, leaves
from mpssl_fed.errors import UserError
from mpssl_fed.federation.messages import EXAMPLES, TableReply, TrainReply
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.site.evaluation import exact_confusion
from mpssl_fed.federation.site.held import Held, HeldState
from mpssl_fed.federation.site.opened import LastOpened, kept_of
from mpssl_fed.federation.site.sharing import SharedPart, part_of, require_room
from mpssl_fed.federation.site.spending import Reserved, Spending, refuse_reads
from mpssl_fed.federation.site.state import Entry, SiteState, State, snapshot
from mpssl_fed.federation.weights import digest, from_record, require_sound
from mpssl_fed.method import Learner, build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.models import Classifier, Weights
from mpssl_fed.privacy.build import private_data
from mpssl_fed.privacy.noise import Noise
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.reply_metrics import REPLY_METRICS

RELEASED_ONCE = ("source.rows",)
"""Learner state that was read from private data once a run, whatever the weights: P-SSL's foundation probabilities."""


@dataclass(frozen=True)
class Site:
    """One data owner: number ``partition``, with everything that stays there under ``folder``.

    noise: where draws and noise come from, for tests; by default what ``privacy.noise`` names. proceed: called before each step
    and each batch of an evaluation; what it raises ends the round. held: what a simulation of public data keeps in memory.
    """

    partition: int
    folder: Path
    noise: Noise | None = None
    proceed: Callable[[], None] | None = None
    held: Held | None = None

    def answer(
        self, run: str, number: int, config: Config, weights: ArrayRecord, parts: Parts, budget: Spending | None
    ) -> TrainReply | SharedPart:
        """Return what a round of ``config`` asks of a site: :meth:`share_round` where noise is shared, else :meth:`train_round`."""
        if config.privacy.shared:
            assert budget is not None
            return self.share_round(run, number, config, weights, parts, budget)
        return self.train_round(run, number, config, weights, parts, budget)

    @property
    def state(self) -> SiteState | HeldState:
        """What it keeps from round to round."""
        return SiteState(self.folder) if self.held is None else self.held.state(self.partition)

    def admit(self, run: str, config: Config, weights: ArrayRecord, classifier: Classifier) -> Weights:
        """Return the weights to start from. Refusal for weights that are misshapen, not finite or too large, and for a config that
        is not the run's."""
        if self.held is not None:
            return self.held.start(weights, classifier)
        start = from_record(weights, classifier.shared_state())
        self.state.require(run, settings_of(config))
        return start

    def train_round(
        self, run: str, number: int, config: Config, weights: ArrayRecord, parts: Parts, budget: Spending | None
    ) -> TrainReply:
        """Return the classifier of ``parts`` after ``local_steps`` steps of round ``number`` from ``weights``.

        budget: what pays for the reads, None where nothing does. The same run, round and weights again get the stored reply; the
        same round with other weights trains anew from the latents before that round. Raises Refusal for weights that are
        misshapen, not finite or too large, for a config that is not the run's, when training diverges, and for what the budget does
        not cover; nothing is charged before all that is to be trained has been built.
        """
        started = time.perf_counter()
        torch.set_num_threads(config.runtime.threads)
        classifier = parts.classifier
        start = self.admit(run, config, weights, classifier)
        state, sha256 = self.state, digest(start) if self.held is None else ""
        stored = state.stored_reply(run, number, sha256)
        if stored is not None:
            return stored

        learner, before = self._opened(run, number, config, start, parts, budget)
        trained_from = time.perf_counter()
        losses = learner.train(number, config.federation.local_steps)
        trained_to = time.perf_counter()

        update = classifier.shared_state()
        require_sound(update)
        metrics = {key: float(losses[key]) for key in REPLY_METRICS if key in losses}
        metrics[EXAMPLES] = float((budget and budget.public_size) or len(parts.labelled))
        metrics["serialise_s"] = time.perf_counter() - started - (trained_to - trained_from)
        reply = TrainReply(update, metrics)
        after = snapshot(learner.state())
        kept = {key: after[key].clone() for key in RELEASED_ONCE if key in after}  # the round may be asked anew
        numbers = {key: value for key, value in losses.items() if key == "gap" or key not in REPLY_METRICS}
        if self.held is None:
            state.save(Entry(run, number, sha256, before | kept, after, reply, numbers, settings_of(config)))
        elif learner.source is not None:  # nothing else lasts from round to round
            state.save(Entry(run, number, sha256, before | kept, after, None, numbers))
        return reply

    def share_round(
        self, run: str, number: int, config: Config, weights: ArrayRecord, parts: Parts, budget: Spending
    ) -> SharedPart:
        """Return the site's part of the sum of round ``number``, a step of which is taken at the server (``privacy.trust=sum``).

        Charged as :meth:`train_round`, with its Refusals. Nothing of it is stored: what is masked is kept with the masks, and the
        same round is a new, charged one with fresh noise.
        """
        torch.set_num_threads(config.runtime.threads)
        start = self.admit(run, config, weights, parts.classifier)
        assert budget.public_size is not None
        require_room(config, parts.classifier, budget.public_size)
        learner, before = self._opened(run, number, config, start, parts, budget)
        looks = config.method.source == "meta-optimised"
        last = LastOpened.of(config, before, parts.classifier.theta(), number) if looks else None
        part = part_of(learner, number, budget.public_size, last.gradient if last else None)
        after = snapshot(learner.state()) | (last.kept if last else {})
        kept = {key: after[key].clone() for key in RELEASED_ONCE if key in after}
        self.state.save(Entry(run, number, digest(start), before | kept, after, None, {}, settings_of(config)))
        return part

    def _opened(
        self, run: str, number: int, config: Config, start: Weights, parts: Parts, budget: Spending | None
    ) -> tuple[Learner, State]:
        """Return the learner of a round, ready for its first read, and its state before; all of the round is charged by then."""
        before = self.state.before(run, number)
        first = before is None
        if budget is not None:
            budget.foresee(run, number, first)
        charge = Reserved()
        private = None if budget is None else budget.open_round(run, parts, charge, self.noise)
        learner = self.held.learner(self.partition, parts) if self.held else None
        if learner is None:
            learner = build_site_learner(config, parts, self.partition, private)
            if self.held is not None:
                self.held.keep_ready(self.partition, parts, learner)
        learner.proceed = self.proceed or bool
        if before is not None:
            learner.load_state(before)
        before = kept_of(before or {}) | snapshot(learner.state())
        parts.classifier.load_shared(start)
        if budget is not None:
            charge.by = budget.reserve(run, number, first, parts.owned)
        return learner, before

    def evaluate(
        self, run: str, number: int, config: Config, weights: ArrayRecord, parts: Parts, budget: Spending | None
    ) -> TableReply:
        """Return how the model of ``weights`` after round ``number`` does on what the site holds out.

        Charged, stored and given again as :meth:`train_round` does: the same run, round and weights get the stored table, other
        weights a new charge within the plan. Refusal as there, ``plan`` after a round where no evaluation is due, and outside
        differential privacy ``too-few`` where nothing could be held out.
        """
        torch.set_num_threads(config.runtime.threads)
        classifier, federation = parts.classifier, config.federation
        start = self.admit(run, config, weights, classifier)
        if number not in evaluation_rounds(federation.evaluate_at_sites.times, federation.rounds) or parts.held_out is None:
            raise Refusal("plan")
        sha256, state = digest(start), self.state
        stored = state.stored_table(run, number, sha256)
        if stored is not None:
            return stored
        if not config.privacy.on and not len(parts.held_out):
            raise Refusal("too-few")
        if budget is not None:
            budget.foresee_evaluation(run, number)
        charge = Reserved()
        released = None if budget is None else budget.open_evaluation(run, parts, charge, self.noise)
        classifier.load_shared(start)
        if budget is not None:
            charge.by = budget.reserve_evaluation(run, number, parts.owned)
        if released is None:
            reply = TableReply(exact_confusion(classifier, parts.held_out, self.proceed or bool), 0.0)
        else:
            released.proceed = self.proceed or bool
            counts = released.confusion(classifier.theta()).detach().to("cpu", torch.float32)
            reply = TableReply(counts, released.settings.mechanism("confusion").std)
        state.save_table(run, number, sha256, reply, settings_of(config))
        return reply


def settings_of(config: Config) -> dict[str, Any]:
    """Return what a run may not change between its rounds: every key that a site reads, but where its files lie."""
    values = flat(config.dump(), Config)
    return {key: values[key] for key in _run_keys()}


@cache
def _run_keys() -> tuple[str, ...]:
    return tuple(leaf.key for leaf in leaves(Config) if leaf.mark.who != "ignored" and leaf.mark.code != "path")


def build_site_learner(config: Config, parts: Parts, site: int, private: PrivateData | None = None) -> Learner:
    """Return the learner of site number ``site`` around the classifier of ``parts``, in its initial state.

    private: its releases; without them exact reads or, under differential privacy, none at all.
    """
    if not len(parts.labelled) and not config.privacy.on:
        raise UserError(f"site {site} holds no labelled image; lower federation.sites or change data.partition")
    if private is None and config.privacy.on:
        plan = plan_for(config)
        private = private_data(config, parts, plan=plan, charge=refuse_reads)
    return build_learner(config, parts, site=site, private=private)
