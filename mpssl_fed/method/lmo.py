"""Latent meta-optimisation: the gradient of L_val(theta') + lambda_gap L_gap with respect to the latents (phi, xi).

The look-ahead theta' = step(theta, g + lambda g_unsup(x^)) depends on the latents through g_unsup alone. With S = -d theta' / d g,
which is eta for SGD and eta over the root of the second moment, held constant, for AdamW,

    d L_val(theta') / d latents = -lambda d/d latents < g_unsup(theta; x^), S v >,   v = grad_{theta'} L_val.

The decoupled form takes that inner product's gradient down to the augmented views by double backward, and from there one
vector-Jacobian product through augmentation, G, M and I; a second one takes the gap's cotangent. It equals the naive form that
keeps the whole graph, v is a tensor that can be privatised, and images can be taken in slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mpssl_fed.method.gap import gap_loss
from mpssl_fed.method.latent import LatentDraw, Latents
from mpssl_fed.method.losses import UnsupervisedLoss
from mpssl_fed.method.optimiser import Ahead
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.models import Classifier, Params

Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x^ [m, C, S, S], their places [m] in the batch) -> (weak view, strong view); a place always gets the same augmentation."""

TINY = 1e-37


@dataclass(frozen=True)
class InnerStep:
    """The step of the classifier that latents are judged by: where it starts and what it does.

    theta: trainable parameters; g: the part of the gradient at theta that no latent changes (L_sup, exact or released, and
    what else holds the weights), keyed like theta; weight: lambda; ahead: the step as a function of the whole gradient.
    """

    classifier: Classifier
    loss: UnsupervisedLoss
    private: PrivateData
    theta: Params
    g: Params
    weight: float
    ahead: Ahead


@dataclass(frozen=True)
class MetaSettings:
    """lambda_gap; whether the two gradients are brought to one norm before it; images a slice (None: all at once)."""

    gap_weight: float
    balance: bool = True
    micro_batch: int | None = None


@dataclass(frozen=True)
class MetaAnswer:
    """The meta-gradient, one tensor a latent parameter; its two parts as they are before balance; the gap that was seen."""

    gradient: list[Tensor]
    of_validation: list[Tensor]
    of_gap: list[Tensor]
    gap: float

    def ratio(self, block: slice) -> float:
        """Return |grad L_val(theta')| / |grad L_gap| on a block of the latents; infinite where no gap pulls."""
        validation, gap = (float(_norm(part[block])) for part in (self.of_validation, self.of_gap))
        return validation / gap if gap else math.inf


class Drawing(Protocol):
    """What makes images of latents."""

    latents: Latents

    def from_latents(self, draw: LatentDraw) -> Tensor:
        """Return x^ [n, C, S, S] with its graph to the latents."""


def meta_gradient(inner: InnerStep, source: Drawing, draw: LatentDraw, views: Pair, settings: MetaSettings) -> MetaAnswer:
    """Return the gradient of L_val(theta') + lambda_gap L_gap with respect to the source's latents, at a draw of n images.

    The two private reads are ``validation_gradient`` at theta' and ``mean_feature`` at theta, the second one skipped where the
    gap weighs nothing. Slices give the same answer for an additive loss, with less memory: G and the double backward then hold
    the graph of one slice at a time, and all but the last slice are gone through twice. With ``balance`` the two gradients are
    divided by their norms, on mapper and converter each, before they are added: a validation loss near 0 or a gap of another scale
    silences neither.
    """
    n = len(draw.y)
    slices = torch.split(torch.arange(n), settings.micro_batch or n)[::-1]  # the last one, whose graph is kept, is of full size
    first = [_Slice.of(inner, source, draw, views, index, keep=index is slices[-1]) for index in slices]
    g = {name: value.detach() for name, value in inner.g.items()}
    for part in first:
        for name, g_unsup in part.g_unsup.items():
            g[name] = g[name] + inner.weight * g_unsup.detach()
    ahead = inner.ahead(g)
    v = inner.private.validation_gradient(ahead.theta)
    pull = {name: ahead.slope[name] * value for name, value in v.items()}  # S v

    gap, gap_cotangent = 0.0, None
    if settings.gap_weight:
        gap, gap_cotangent = _gap(inner, torch.cat([part.x.detach() for part in reversed(first)]), draw.y)
    parameters = list(source.latents.parameters())
    of_validation, of_gap = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]
    for index in reversed(slices):
        part = first.pop() if index is slices[-1] else _Slice.of(inner, source, draw, views, index, keep=True)
        cotangents = part.cotangents(pull, -inner.weight)
        _add(of_validation, torch.autograd.grad(part.pair, parameters, cotangents, retain_graph=gap_cotangent is not None))
        if gap_cotangent is not None:
            _add(of_gap, torch.autograd.grad(part.x, parameters, gap_cotangent[index.to(gap_cotangent.device)]))
    total = combined(of_validation, of_gap, source.latents.blocks(), settings)
    return MetaAnswer(total, of_validation, of_gap, gap)


def combined(of_validation: list[Tensor], of_gap: list[Tensor], blocks: list[slice], settings: MetaSettings) -> list[Tensor]:
    """Return of_validation + lambda_gap of_gap; with ``balance`` each of them is of norm 1 on each block, or 0."""
    total: list[Tensor] = []
    for block in blocks:
        one, other = of_validation[block], of_gap[block]
        if settings.balance and settings.gap_weight:
            one, other = ([g / _norm(part).clamp_min(TINY) for g in part] for part in (one, other))
        total += [a + settings.gap_weight * b for a, b in zip(one, other, strict=True)]
    return total


@dataclass(frozen=True)
class _Slice:
    """Some images of the batch, their views and the gradient of their share of the unsupervised loss."""

    x: Tensor
    pair: tuple[Tensor, Tensor]
    leaves: list[Tensor]
    g_unsup: Params

    @classmethod
    def of(cls, inner: InnerStep, source: Drawing, draw: LatentDraw, views: Pair, index: Tensor, keep: bool) -> _Slice:
        """Make the images at ``index`` [m]; ``keep`` the graphs to the latents and through the gradient."""
        with torch.set_grad_enabled(keep):
            x = source.from_latents(draw.at(index))
            pair = views(x, index)
        leaves = [view.detach().requires_grad_() for view in pair]
        point = {name: p.detach() for name, p in inner.theta.items()}
        reached = {k: p.requires_grad_() for k, p in point.items() if inner.loss.reaches_head or k.startswith("body.")}
        value = inner.loss(inner.classifier, point, *leaves) * (len(index) / len(draw.y))
        gradient = torch.autograd.grad(value, list(reached.values()), create_graph=keep)
        return cls(x, pair, leaves, dict(zip(reached, gradient, strict=True)))

    def cotangents(self, pull: Params, scale: float) -> list[Tensor]:
        """Return the gradient of scale < g_unsup, pull > with respect to each view."""
        inner = torch.stack([(g * pull[name]).sum() for name, g in self.g_unsup.items() if name in pull]).sum() * scale
        found = torch.autograd.grad(inner, self.leaves, allow_unused=True)  # a stop-gradient view has none
        return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(self.leaves, found, strict=True)]


def _gap(inner: InnerStep, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Return (L_gap, its cotangent on the images x)."""
    x = x.requires_grad_()
    real = inner.private.mean_feature(inner.theta)
    with inner.classifier.running_statistics():
        features = inner.classifier.features({name: p.detach() for name, p in inner.theta.items()}, x)
    value = gap_loss(real, features, y)
    return float(value.detach()), torch.autograd.grad(value, x)[0]


def _norm(part: list[Tensor]) -> Tensor:
    """Return the L2 norm of all entries together; scaled by the largest, since the square of 1e-23 is 0 in float32."""
    flat = torch.cat([g.flatten() for g in part])
    largest = flat.abs().max().clamp_min(TINY)
    length: Tensor = (flat / largest).norm()
    return largest * length


def _add(total: list[Tensor], more: tuple[Tensor, ...]) -> None:
    for sum_, g in zip(total, more, strict=True):
        sum_.add_(g)
