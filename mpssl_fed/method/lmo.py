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
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mpssl_fed.method.convolution import LeanConvolutions
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
    """lambda_gap; whether the two gradients are brought to one norm before it; images a slice (None: all at once).

    A slice is what the double backward takes at a time; G's graph, of which an image takes more, is of half as many.
    """

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
    gap weighs nothing. Slices give the same answer for an additive loss, and where one of them holds the batch for any loss, with
    less memory: first the double backward and then G hold the graph of one slice at a time. For that images are made twice, and
    the gradient at theta is taken twice of all slices but one. With ``balance`` the two gradients are divided by their norms, on
    mapper and converter each, before they are added: a validation loss near 0 or a gap of another scale silences neither.
    """
    every = torch.arange(len(draw.y))
    places = torch.split(every, settings.micro_batch or len(every))
    made = [_Images.of(source, draw, views, at, keep=settings.micro_batch is None) for at in places]
    x, pairs = _together([one.x.detach() for one in made]), [one.views() for one in made]
    if settings.micro_batch is not None:
        made, places = [], torch.split(every, (settings.micro_batch + 1) // 2)
    cotangents, gap_cotangent, gap = _cotangents(inner, x, draw.y, pairs, settings)

    parameters = list(source.latents.parameters())
    of_validation, of_gap = [torch.zeros_like(p) for p in parameters], [torch.zeros_like(p) for p in parameters]
    for at in places:
        one, here = made.pop() if made else _Images.of(source, draw, views, at, keep=True), at.to(x.device)
        of_views = [part[here] for part in cotangents]
        _add(of_validation, torch.autograd.grad(one.pair, parameters, of_views, retain_graph=gap_cotangent is not None))
        if gap_cotangent is not None:
            _add(of_gap, torch.autograd.grad(one.x, parameters, gap_cotangent[here]))
        del one  # its graph, before the next one is made
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
class _Images:
    """Some images of the batch and their views."""

    x: Tensor
    pair: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, source: Drawing, draw: LatentDraw, views: Pair, at: Tensor, keep: bool) -> _Images:
        """Make the images at the places ``at`` [m]; ``keep`` their graph to the latents."""
        with torch.set_grad_enabled(keep):
            x = source.from_latents(draw.at(at))
            return cls(x, views(x, at))

    def views(self) -> tuple[Tensor, Tensor]:
        """Return the pair without its graph."""
        weak, strong = self.pair
        return weak.detach(), strong.detach()


@dataclass(frozen=True)
class _Judged:
    """Some of the batch's pairs of views and the gradient of their share of the unsupervised loss."""

    leaves: list[Tensor]
    g_unsup: Params

    @classmethod
    def of(cls, inner: InnerStep, pair: tuple[Tensor, Tensor], share: float, keep: bool) -> _Judged:
        """Take the gradient of ``share`` times the loss of a pair; ``keep`` the graph through it to the views."""
        leaves = [view.detach().requires_grad_() for view in pair]
        point = {name: p.detach() for name, p in inner.theta.items()}
        reached = {k: p.requires_grad_() for k, p in point.items() if inner.loss.reaches_head or k.startswith("body.")}
        with LeanConvolutions() if keep else nullcontext():  # which cannot tell of leaves whether their gradient is wanted
            value = inner.loss(inner.classifier, point, *(leaf.view_as(leaf) for leaf in leaves)) * share
        gradient = torch.autograd.grad(value, list(reached.values()), create_graph=keep)
        return cls(leaves, dict(zip(reached, gradient, strict=True)))

    def cotangents(self, pull: Params, scale: float) -> list[Tensor]:
        """Return the gradient of scale < g_unsup, pull > with respect to each view."""
        pulled = {name: g for name, g in self.g_unsup.items() if name in pull}
        slopes = [pull[name] * scale for name in pulled]
        found = torch.autograd.grad(list(pulled.values()), self.leaves, slopes, allow_unused=True)  # a stop-gradient view has none
        return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(self.leaves, found, strict=True)]


def _cotangents(
    inner: InnerStep, x: Tensor, y: Tensor, pairs: list[tuple[Tensor, Tensor]], settings: MetaSettings
) -> tuple[list[Tensor], Tensor | None, float]:
    """Return the cotangents on both views of the batch, the gap's on its images (None where it weighs nothing), and the gap.

    No name holds what one slice had while the next is at work: its graph is most of the memory.
    """
    shares = [len(pair[0]) / len(x) for pair in pairs]
    pull, kept = _pull(inner, pairs, shares)
    found = []
    for pair, share in zip(pairs, shares, strict=True):
        found.append((kept.pop() if kept else _Judged.of(inner, pair, share, keep=True)).cotangents(pull, -inner.weight))
    views = [_together(list(parts)) for parts in zip(*found, strict=True)]
    if not settings.gap_weight:
        return views, None, 0.0
    gap, cotangent = _gap(inner, x, y)
    return views, cotangent, gap


def _pull(inner: InnerStep, pairs: list[tuple[Tensor, Tensor]], shares: list[float]) -> tuple[Params, list[_Judged]]:
    """Return S v, and the first slice with its graph in a list: it is the last to be gone through, and of full size."""
    g = {name: value.detach() for name, value in inner.g.items()}
    for place in reversed(range(len(pairs))):
        judged = _Judged.of(inner, pairs[place], shares[place], keep=place == 0)
        for name, g_unsup in judged.g_unsup.items():
            g[name] = g[name] + inner.weight * g_unsup.detach()
    ahead = inner.ahead(g)
    del g  # as large as the classifier
    v = inner.private.validation_gradient(ahead.theta)
    return {name: ahead.slope[name] * value for name, value in v.items()}, [judged]


def _gap(inner: InnerStep, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Return (L_gap, its cotangent on the images x)."""
    x = x.detach().requires_grad_()
    real = inner.private.mean_feature(inner.theta)
    with inner.classifier.running_statistics():
        features = inner.classifier.features({name: p.detach() for name, p in inner.theta.items()}, x)
    value = gap_loss(real, features, y)
    return float(value.detach()), torch.autograd.grad(value, x)[0]


def _together(parts: list[Tensor]) -> Tensor:
    """Return them as one; a single one as it is, in its memory format."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _norm(part: list[Tensor]) -> Tensor:
    """Return the L2 norm of all entries together; scaled by the largest, since the square of 1e-23 is 0 in float32."""
    flat = torch.cat([g.flatten() for g in part])
    largest = flat.abs().max().clamp_min(TINY)
    length: Tensor = (flat / largest).norm()
    return largest * length


def _add(total: list[Tensor], more: tuple[Tensor, ...]) -> None:
    for sum_, g in zip(total, more, strict=True):
        sum_.add_(g)
