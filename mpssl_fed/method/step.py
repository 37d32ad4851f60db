"""One site's training: the alternation of MP-SSL, written as DESIGN section 3 writes it.

Privacy is not an ``if`` here. The step asks a :class:`PrivateData` for what it needs; the exact one answers exactly, the
one under differential privacy answers with noised releases. Everything else on this page is post-processing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.method.anchor import Anchor
from mpssl_fed.method.lmo import MetaSettings, meta_gradient
from mpssl_fed.method.losses import UnsupervisedLoss
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.method.pseudo_label import PseudoLabel
from mpssl_fed.method.sources import MetaOptimised, Source, Streams
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier, Params
from mpssl_fed.seeds import torch_rng
from mpssl_fed.watch import tell


@dataclass
class Learner:
    """Trains ``classifier`` in place, round after round, and keeps what lives at the site (latents, buffer, thresholds)."""

    config: Config
    classifier: Classifier
    private: PrivateData
    views: Views
    source: Source | None
    loss: UnsupervisedLoss | None
    anchor: Anchor | None
    site: int
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    proceed: Callable[[], object] = bool
    """Called before each step; raises to end the round there."""

    def train(self, round_number: int, steps: int | None = None) -> dict[str, float]:
        """Take ``steps`` (default federation.local_steps) from the weights the classifier holds, in round 1, 2, ...

        Returns means over the steps of the losses that were seen, and the seconds spent: ``train_s`` in all but the
        generator, ``generate_s`` in it. Streams depend on (seed, site, round) alone, so a round repeats bit for bit.
        """
        steps = steps or self.config.federation.local_steps
        start = perf_counter()
        self._begin(round_number)
        seen: dict[str, list[float]] = defaultdict(list)
        for t in range(steps):
            self.proceed()
            for name, value in self.step((round_number - 1) * self.config.federation.local_steps + t).items():
                seen[name].append(value)
            tell("training", t + 1, steps)
        generate = self.source.cost.seconds if self.source else 0.0
        images = self.source.cost.images if self.source else 0
        means = {name: sum(values) / len(values) for name, values in seen.items()}
        return means | {
            "train_s": perf_counter() - start - generate,
            "generate_s": generate,
            "generated": float(images),
        }

    def step(self, t: int) -> dict[str, float]:
        """Take step ``t`` (counted over all rounds): the five lines of the method."""
        log: dict[str, float] = {}
        theta = self.classifier.theta()
        g = self.private.supervised_gradient(theta)  # grad L_sup, for the look-ahead and the update
        if isinstance(self.source, MetaOptimised) and self.loss and t % self.config.method.lmo_every == 0:
            log["gap"] = self._optimise_latents(theta, g)  # LMO: one step of phi and xi
        if self.source and self.loss:
            g_unsup, log["unsupervised"] = self._unsupervised_gradient(theta, t)  # grad L_scr(psi; x^)
            g = _plus(g, self._lambda(t), g_unsup)
        if self.anchor:
            g = _plus(g, 1.0, self.anchor.gradient(theta))
        if mu := self.config.federation.strategy.proximal_mu:  # FedProx, arXiv 1812.06127
            g = _plus(g, mu, {name: p.detach() - self.start[name] for name, p in theta.items()})
        self._update(theta, g, t)
        loss = getattr(self.private, "last_loss", None)
        return log if loss is None else log | {"loss": loss}

    def state(self) -> dict[str, Tensor]:
        """Return all that continues from round to round and never leaves the site, as plain CPU tensors."""
        state = {f"source.{k}": v for k, v in self.source.state().items()} if self.source else {}
        return state | ({f"loss.{k}": v for k, v in self.loss.state().items()} if self.loss else {})

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        for name, part in (("source", self.source), ("loss", self.loss)):
            mine = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            if part and mine:
                part.load(mine)

    def samples(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return n of the site's synthetic images [n, C, S, S] with task labels where they have one; None without a source."""
        return self.source.samples(n) if self.source else None

    def _begin(self, round_number: int) -> None:
        streams = self._streams(round_number)
        self.start = {name: p.detach().clone() for name, p in self.classifier.theta().items()}
        self.optimiser = _optimiser(self.config, list(self.classifier.theta().values()))
        self.private.begin_round(streams("batches"), streams("labelled views"))
        self.view_rng, self.meta_view_rng = streams("views"), streams("meta views")
        self.classifier.train()
        if self.source:
            self.source.cost.seconds, self.source.cost.images = 0.0, 0
            self.source.begin_round(streams)
        if isinstance(self.source, PseudoLabel) and self.source.rows is None:
            self.source.set_rows(self.private.foundation_labels(self.source.foundation))
        if self.anchor:
            self.anchor.begin_round(streams("anchor"))

    def _streams(self, round_number: int) -> Streams:
        return lambda purpose: torch_rng(self.config.seed, "site", self.site, "round", round_number, purpose)

    def _unsupervised_gradient(self, theta: Params, t: int) -> tuple[Params, float]:
        assert self.source is not None
        assert self.loss is not None
        x = self.source.batch(t)
        weak, strong = self.views.weak(x, self.view_rng), self.views.strong(x, self.view_rng)
        self.loss.observe(self.classifier, theta, weak)
        reached = {name: p for name, p in theta.items() if self.loss.reaches_head or name.startswith("body.")}
        with self.autocast():
            value = self.loss(self.classifier, theta, weak, strong)
        gradient = torch.autograd.grad(value, list(reached.values()))
        return dict(zip(reached, gradient, strict=True)), float(value.detach())

    def _optimise_latents(self, theta: Params, g_sup: Params) -> float:
        assert isinstance(self.source, MetaOptimised)
        assert self.loss is not None
        method = self.config.method
        draw = self.source.draw(method.lmo_batch, self.source.meta_rng)
        settings = MetaSettings(method.look_ahead, method.lambda_, method.gap.weight, method.micro_batch)
        views = self.views.fixed_pair(method.lmo_batch, self.meta_view_rng)
        answer = meta_gradient(self.classifier, self.loss, self.private, self.source, theta, g_sup, draw, views, settings)
        self.source.latents.adam(answer.gradient)
        return answer.gap

    def _lambda(self, t: int) -> float:
        """Return lambda at step t: a linear rise over the first ``method.warmup`` of all steps."""
        rise = self.config.method.warmup * self.config.federation.rounds * self.config.federation.local_steps
        return self.config.method.lambda_ * min(1.0, t / rise if rise else 1.0)

    def _update(self, theta: Params, g: Params, t: int) -> None:
        """theta <- theta - eta g, with the optimiser's momentum and the schedule's eta."""
        optim = self.config.optim
        total = self.config.federation.rounds * self.config.federation.local_steps
        rate = optim.lr * min(1.0, (t + 1) / (optim.warmup_steps + 1))
        if optim.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, t / total)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for name, parameter in theta.items():
            parameter.grad = g[name]
        self.optimiser.step()
        for parameter in theta.values():
            parameter.grad = None


def _plus(g: Params, weight: float, more: Params) -> Params:
    return {name: value + weight * more[name] if name in more else value for name, value in g.items()}


def _optimiser(config: Config, parameters: list[Tensor]) -> torch.optim.Optimizer:
    optim = config.optim
    if optim.name == "adamw":
        return torch.optim.AdamW(parameters, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
    momentum = optim.momentum if optim.name == "momentum" else 0.0
    nesterov = optim.nesterov and momentum > 0
    return torch.optim.SGD(parameters, lr=optim.lr, momentum=momentum, nesterov=nesterov, weight_decay=optim.weight_decay)
