"""One site's training: the alternation of MP-SSL, written as docs/design.md, section 3, writes it.

Privacy is not an ``if`` here. The step asks a :class:`PrivateData` for what it needs; the exact one answers exactly, the
one under differential privacy answers with noised releases. Everything else on this page is post-processing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.method.allocator import keep_freed_memory
from mpssl_fed.method.anchor import Anchor
from mpssl_fed.method.lmo import InnerStep
from mpssl_fed.method.losses import UnsupervisedLoss
from mpssl_fed.method.optimiser import Optimiser
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.method.sources import Source, Streams
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier, Params
from mpssl_fed.seeds import torch_rng
from mpssl_fed.watch import tell


@dataclass(frozen=True)
class Unsupervised:
    """What stands in for real unlabeled images: a source of images and the loss on two views of them."""

    source: Source
    loss: UnsupervisedLoss


@dataclass
class Learner:
    """Trains ``classifier`` in place, round after round, and keeps what lives at the site (latents, buffer, thresholds)."""

    config: Config
    classifier: Classifier
    private: PrivateData
    views: Views
    unsupervised: Unsupervised | None
    anchor: Anchor | None
    site: int
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    proceed: Callable[[], object] = bool
    """Called before each step; raises to end the round there."""

    def __post_init__(self) -> None:
        keep_freed_memory()

    @property
    def source(self) -> Source | None:
        """The source of synthetic images, if the method has one."""
        return self.unsupervised.source if self.unsupervised else None

    def train(self, round_number: int, steps: int | None = None) -> dict[str, float]:
        """Take ``steps`` (default federation.local_steps) from the weights the classifier holds, in round 1, 2, ...

        Returns means over the steps of the losses that were seen; what the source says of itself; and the seconds spent:
        ``train_s`` in all but the generator, ``generate_s`` in it. Streams depend on (seed, site, round) alone, so a round
        repeats bit for bit.
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
        generate, images = (self.source.cost.seconds, self.source.cost.images) if self.source else (0.0, 0)
        means = {name: sum(values) / len(values) for name, values in seen.items()}
        return (
            means
            | (self.source.numbers() if self.source else {})
            | {"train_s": perf_counter() - start - generate, "generate_s": generate, "generated": float(images)}
        )

    def step(self, t: int) -> dict[str, float]:
        """Take step ``t`` (counted over all rounds): the lines of the method."""
        log: dict[str, float] = {}
        theta = self.classifier.theta()
        g = self.private.supervised_gradient(theta)  # grad L_sup, for the look-ahead and the update
        g = self._held(theta, g)  # anchor and FedProx, where they are asked for
        log |= self._meta_step(theta, g, t)  # LMO: phi and xi
        g = self._taught(theta, g, t, log)
        self.optimiser.step(g, t)  # theta <- theta - eta g
        supervised = self.private.last_loss
        return log if supervised is None else log | {"loss": supervised}

    def public_gradient(self, round_number: int, opened: Params | None = None) -> tuple[Params, Params]:
        """Return theta and, keyed alike, the gradient there without L_sup, as round ``round_number`` of one step begins.

        For a step that is taken elsewhere, on the sum over sites; nothing of the site's images is in it but what LMO's own reads
        released. opened: the gradient that LMO looks ahead along, public as theta is; by default zero.
        """
        self._begin(round_number)
        self.proceed()
        theta, t = self.classifier.theta(), round_number - 1
        zero = {name: torch.zeros_like(p) for name, p in theta.items()}
        self._meta_step(theta, opened or zero, t)
        return theta, self._taught(theta, self._held(theta, zero), t, {})

    def state(self) -> dict[str, Tensor]:
        """Return all that continues from round to round and never leaves the site, as plain CPU tensors."""
        return {f"{name}.{key}": value for name, part in self._parts().items() for key, value in part.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        for name, part in self._parts().items():
            mine = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            if mine:
                part.load(mine)

    def samples(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return n of the site's synthetic images [n, C, S, S] with task labels where they have one; None without a source."""
        return self.source.samples(n) if self.source else None

    def _parts(self) -> dict[str, Source | UnsupervisedLoss]:
        return {"source": self.unsupervised.source, "loss": self.unsupervised.loss} if self.unsupervised else {}

    def _begin(self, round_number: int) -> None:
        streams = self._streams(round_number)
        if self.config.federation.strategy.proximal_mu:
            self.start = {name: p.detach().clone() for name, p in self.classifier.theta().items()}
        self.optimiser = Optimiser(self.config, self.classifier.theta())
        self.private.begin_round(streams("batches"), streams("labelled views"))
        if self.unsupervised:
            self.view_rng = streams("views")
        self.classifier.train()
        if self.source:
            self.source.cost.seconds, self.source.cost.images = 0.0, 0
            self.source.begin_round(streams)
            self.source.prepare(self.classifier, self.private)
        if self.anchor:
            self.anchor.begin_round(streams("anchor"))

    def _streams(self, round_number: int) -> Streams:
        return lambda purpose: torch_rng(self.config.seed, "site", self.site, "round", round_number, purpose)

    def _held(self, theta: Params, g: Params) -> Params:
        """Return g with the gradients of what holds the weights near the global model's."""
        if self.anchor:
            g = _plus(g, 1.0, self.anchor.gradient(theta))
        if mu := self.config.federation.strategy.proximal_mu:  # FedProx, arXiv 1812.06127
            g = _plus(g, mu, {name: p.detach() - self.start[name] for name, p in theta.items()})
        return g

    def _meta_step(self, theta: Params, g: Params, t: int) -> dict[str, float]:
        """Let the source learn from a look-ahead along g and lambda_t grad L_scr; return what it tells."""
        if not self.unsupervised:
            return {}
        loss, ahead = self.unsupervised.loss, partial(self.optimiser.look_ahead, t=t)
        inner = InnerStep(self.classifier, loss, self.private, theta, g, self.config.lambda_at(t), ahead)
        return self.unsupervised.source.meta_step(t, inner)

    def _taught(self, theta: Params, g: Params, t: int, log: dict[str, float]) -> Params:
        """Return g with lambda_t grad L_scr(psi; x^), the loss on synthetic images, whose value goes to log."""
        if not self.unsupervised:
            return g
        g_unsup, log["unsupervised"] = self._unsupervised_gradient(self.unsupervised, theta, t)
        return _plus(g, self.config.lambda_at(t), g_unsup)

    def _unsupervised_gradient(self, unsupervised: Unsupervised, theta: Params, t: int) -> tuple[Params, float]:
        x, loss = unsupervised.source.batch(t), unsupervised.loss
        weak, strong = self.views.weak(x, self.view_rng), self.views.strong(x, self.view_rng)
        loss.observe(self.classifier, theta, weak)
        reached = {name: p for name, p in theta.items() if loss.reaches_head or name.startswith("body.")}
        with self.autocast():
            value = loss(self.classifier, theta, weak, strong)
        gradient = torch.autograd.grad(value, list(reached.values()))
        return dict(zip(reached, gradient, strict=True)), float(value.detach())


def _plus(g: Params, weight: float, more: Params) -> Params:
    return {name: value + weight * more[name] if name in more else value for name, value in g.items()}
