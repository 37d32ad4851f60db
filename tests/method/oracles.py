"""The meta-gradient by other roads: the whole graph kept, an outside library, and differences of the true objective.

None of it calls the gap, the look-ahead or the balance of the package: they are written anew here, as their definitions say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
import torchopt
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.method.latent import LatentDraw
from mpssl_fed.method.lmo import InnerStep, MetaSettings, Pair
from mpssl_fed.method.meta_optimised import MetaOptimised
from mpssl_fed.method.private_data import ExactPrivateData
from mpssl_fed.models import Params

NaiveAhead = Callable[[Params, Params], Params]
"""(theta, g) -> theta', differentiable in g."""


@dataclass
class NaiveOptimiser:
    """SGD, momentum and AdamW by the book, differentiable in the gradient; AdamW's second moment is a constant of the graph."""

    config: Config
    steps: int = 0
    first: Params = field(default_factory=dict)
    second: Params = field(default_factory=dict)

    def ahead(self, theta: Params, g: Params, t: int) -> Params:
        """Return theta' of step t."""
        optim, federation = self.config.optim, self.config.federation
        eta = optim.lr * min(1, (t + 1) / (optim.warmup_steps + 1))
        if optim.schedule == "cosine":
            eta *= (1 + math.cos(math.pi * t / (federation.rounds * federation.local_steps))) / 2
        moved = {}
        for name, p in theta.items():
            if optim.name == "adamw":
                beta_1, beta_2 = optim.betas
                m = beta_1 * self.first.get(name, torch.zeros_like(p)) + (1 - beta_1) * g[name]
                v = beta_2 * self.second.get(name, torch.zeros_like(p)) + (1 - beta_2) * g[name].detach() ** 2
                m_hat, v_hat = m / (1 - beta_1 ** (self.steps + 1)), v / (1 - beta_2 ** (self.steps + 1))
                moved[name] = p - eta * optim.weight_decay * p - eta * m_hat / (v_hat.sqrt() + 1e-8)
            else:
                decayed = g[name] + optim.weight_decay * p
                mu = optim.momentum if optim.name == "momentum" else 0
                velocity = mu * self.first.get(name, torch.zeros_like(p)) + decayed
                moved[name] = p - eta * (decayed + mu * velocity if optim.nesterov and mu else velocity)
        return moved

    def remember(self, g: Params) -> None:
        """Take the gradient of a step that was made into the moments."""
        decay = 0 if self.config.optim.name == "adamw" else self.config.optim.weight_decay
        assert decay == 0, "the buffer of decayed gradients needs the weights of each step"
        self.steps += 1
        for name, value in g.items():
            if self.config.optim.name == "adamw":
                beta_1, beta_2 = self.config.optim.betas
                self.first[name] = beta_1 * self.first.get(name, torch.zeros_like(value)) + (1 - beta_1) * value
                self.second[name] = beta_2 * self.second.get(name, torch.zeros_like(value)) + (1 - beta_2) * value**2
            else:
                mu = self.config.optim.momentum if self.config.optim.name == "momentum" else 0
                self.first[name] = mu * self.first.get(name, torch.zeros_like(value)) + value


def validation_loss(inner: InnerStep, source: MetaOptimised, draw: LatentDraw, views: Pair, ahead: NaiveAhead) -> Tensor:
    """Return L_val(theta'(latents)) with the whole graph."""
    classifier, private = inner.classifier, inner.private
    assert isinstance(private, ExactPrivateData)
    x = source.from_latents(draw)
    weak, strong = views(x, torch.arange(len(x)))
    leaves = {name: p.detach().requires_grad_() for name, p in inner.theta.items()}
    names = [name for name in leaves if inner.loss.reaches_head or name.startswith("body.")]
    value = inner.loss(classifier, leaves, weak, strong)
    g_unsup = dict(zip(names, torch.autograd.grad(value, [leaves[n] for n in names], create_graph=True), strict=True))
    g = {name: inner.g[name] + inner.weight * g_unsup[name] if name in g_unsup else inner.g[name] for name in leaves}
    x_val, y_val = private.val
    classifier.eval()
    loss = F.cross_entropy(classifier.logits(ahead(leaves, g), private.plain(x_val)), y_val)
    classifier.train()
    return loss


def gap(inner: InnerStep, source: MetaOptimised, draw: LatentDraw, per_class: bool) -> Tensor:
    """Return L_gap with the whole graph, class by class: unbiased, over the spread of all real features, by running statistics."""
    classifier, private = inner.classifier, inner.private
    assert isinstance(private, ExactPrivateData)
    theta = {name: p.detach() for name, p in inner.theta.items()}
    x_real, y_real = private.train
    classifier.eval()
    real, made = classifier.features(theta, private.plain(x_real)), classifier.features(theta, source.from_latents(draw))
    classifier.train()
    spread = sum(((feature - real.mean(0)) ** 2).sum() for feature in real) / len(real)
    terms, error = [], torch.zeros((), dtype=real.dtype)
    for label in draw.y.unique().tolist():
        mine = made[draw.y == label]
        within = ((mine - mine.mean(0)) ** 2).sum() / (len(mine) - 1)
        error = error + within / len(mine) * (len(mine) / len(made)) ** 2
        if (y_real == label).any():
            terms.append(((mine.mean(0) - real[y_real == label].mean(0)) ** 2).sum() - within / len(mine))
    if not per_class:
        terms = [((made.mean(0) - real.mean(0)) ** 2).sum() - error]
    return torch.stack(terms).mean() / spread


def naive(source: MetaOptimised, validation: Tensor, gap_value: Tensor | None, settings: MetaSettings) -> list[Tensor]:
    """Return the gradient of both parts through their whole graphs, put together as the settings say."""
    parts = {
        "mapper": list(source.latents.mapper.parameters()),
        "converter": list(source.latents.converter.parameters()),
    }
    total: list[Tensor] = []
    for parameters in parts.values():
        one = torch.autograd.grad(validation, parameters, retain_graph=True)
        if gap_value is None:
            total += one
            continue
        other = torch.autograd.grad(gap_value, parameters, retain_graph=True)
        norms = [math.sqrt(sum(float((g**2).sum()) for g in part)) if settings.balance else 1.0 for part in (one, other)]
        total += [a / norms[0] + settings.gap_weight * b / norms[1] for a, b in zip(one, other, strict=True)]
    return total


def by_torchopt(
    inner: InnerStep, source: MetaOptimised, supervised: Tensor, draw: LatentDraw, views: Pair, eta: float
) -> list[Tensor]:
    """Return the gradient of L_val(theta') alone, the look-ahead taken by torchopt's differentiable SGD on the module itself.

    supervised: L_sup(theta) of the module's own parameters, with its graph.
    """
    classifier, private = inner.classifier, inner.private
    assert isinstance(private, ExactPrivateData)
    before = torchopt.extract_state_dict(classifier, by="reference")
    optimiser = torchopt.MetaSGD(classifier, lr=eta)
    x = source.from_latents(draw)
    weak, strong = views(x, torch.arange(len(x)))
    optimiser.step(supervised + inner.weight * inner.loss(classifier, dict(classifier.named_parameters()), weak, strong))
    x_val, y_val = private.val
    value = F.cross_entropy(classifier(private.plain(x_val)), y_val)
    gradient = torch.autograd.grad(value, list(source.latents.parameters()))
    torchopt.recover_state_dict(classifier, before)
    return list(gradient)


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Return || one - other || / || other ||."""
    a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (one, other))
    return float((a - b).norm() / b.norm())
