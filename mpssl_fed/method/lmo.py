"""Latent meta-optimisation: the gradient of L_val(theta') + lambda_gap L_gap with respect to the latents (phi, xi).

The look-ahead theta' = theta - eta (g_sup + lambda g_unsup(x^)) depends on the latents through g_unsup alone, so

    d L_val(theta') / d latents = -eta lambda d/d latents < g_unsup(theta; x^), v >,   v = grad_{theta'} L_val.

The decoupled form takes that inner product's gradient down to the augmented views by double backward, and from there one
vector-Jacobian product through augmentation, G, M and I, together with the gap's cotangent. It equals the naive form that
keeps the whole graph, v is a tensor that can be privatised, and images can be taken in slices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mpssl_fed.method.losses import UnsupervisedLoss
from mpssl_fed.method.private_data import FeatureMeans, PrivateData, group_means
from mpssl_fed.method.sources import LatentDraw, MetaOptimised
from mpssl_fed.models import Classifier, Params

Views = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x^ [m, C, S, S], their places [m] in the batch) -> (weak view, strong view); a place always gets the same augmentation."""


@dataclass(frozen=True)
class MetaSettings:
    """eta of the look-ahead, lambda of the unsupervised loss, lambda_gap, images a slice (None: all at once)."""

    look_ahead: float
    weight: float
    gap_weight: float
    micro_batch: int | None = None


@dataclass(frozen=True)
class MetaAnswer:
    """The meta-gradient, one tensor a latent parameter, and the gap it saw."""

    gradient: list[Tensor]
    gap: float


def meta_gradient(
    classifier: Classifier,
    loss: UnsupervisedLoss,
    private: PrivateData,
    source: MetaOptimised,
    theta: Params,
    g_sup: Params,
    draw: LatentDraw,
    views: Views,
    settings: MetaSettings,
) -> MetaAnswer:
    """Return the gradient of L_val(theta') + lambda_gap L_gap with respect to the source's latent parameters.

    theta: trainable parameters; g_sup: gradient of L_sup at theta (exact or released), keyed like theta; draw: the latents
    of n images. The two private reads are ``validation_gradient`` at theta' and ``mean_feature`` at theta, the second one
    skipped where the gap weighs nothing. Slices give the same answer for an additive loss, with less memory: G and the
    double backward then hold the graph of one slice at a time.
    """
    n = len(draw.y)
    slices = torch.arange(n).split(settings.micro_batch or n)
    parameters = list(source.latents.parameters())
    single = len(slices) == 1
    first = [_Slice.of(classifier, loss, source, theta, draw, views, index, keep=single) for index in slices]
    ahead = {name: p.detach() - settings.look_ahead * g_sup[name] for name, p in theta.items()}
    for part in first:
        for name, g in part.g_unsup.items():
            ahead[name] = ahead[name] - settings.look_ahead * settings.weight * g.detach()
    v = private.validation_gradient(ahead)

    gap, gap_cotangent = 0.0, None
    if settings.gap_weight:
        x = torch.cat([part.x.detach() for part in first])
        gap, gap_cotangent = _gap(classifier, theta, private.mean_feature(theta), x, draw.y)
    total = [torch.zeros_like(p) for p in parameters]
    for number, index in enumerate(slices):
        part = first[number] if single else _Slice.of(classifier, loss, source, theta, draw, views, index, keep=True)
        outputs, cotangents = list(part.pair), part.cotangents(v, -settings.look_ahead * settings.weight)
        if gap_cotangent is not None:
            outputs.append(part.x)
            cotangents.append(settings.gap_weight * gap_cotangent[index.to(gap_cotangent.device)])
        total = [sum_ + g for sum_, g in zip(total, torch.autograd.grad(outputs, parameters, cotangents), strict=True)]
    return MetaAnswer(total, gap)


@dataclass(frozen=True)
class _Slice:
    """Some images of the batch, their views and the gradient of their share of the unsupervised loss."""

    x: Tensor
    pair: tuple[Tensor, Tensor]
    leaves: list[Tensor]
    g_unsup: Params

    @classmethod
    def of(
        cls,
        classifier: Classifier,
        loss: UnsupervisedLoss,
        source: MetaOptimised,
        theta: Params,
        draw: LatentDraw,
        views: Views,
        index: Tensor,
        keep: bool,
    ) -> _Slice:
        """Make the images at ``index`` [m]; ``keep`` the graphs to the latents and through the gradient."""
        with torch.set_grad_enabled(keep):
            x = source.from_latents(draw.at(index))
            pair = views(x, index)
        leaves = [view.detach().requires_grad_() for view in pair]
        reached = {k: p.detach().requires_grad_() for k, p in theta.items() if loss.reaches_head or k.startswith("body.")}
        point = {name: reached.get(name, p.detach()) for name, p in theta.items()}
        value = loss(classifier, point, *leaves) * (len(index) / len(draw.y))
        gradient = torch.autograd.grad(value, list(reached.values()), create_graph=keep)
        return cls(x, pair, leaves, dict(zip(reached, gradient, strict=True)))

    def cotangents(self, v: Params, scale: float) -> list[Tensor]:
        """Return the gradient of scale < g_unsup, v > with respect to each view."""
        inner = torch.stack([(g * v[name]).sum() for name, g in self.g_unsup.items() if name in v]).sum() * scale
        found = torch.autograd.grad(inner, self.leaves, allow_unused=True)  # a stop-gradient view has none
        return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(self.leaves, found, strict=True)]


def gap_loss(real: FeatureMeans, features: Tensor, y: Tensor) -> Tensor:
    """Return L_gap: the squared distance of mean features, the mean over groups that both sides have.

    features [n, d] of synthetic images with task labels y [n]; they pass the clip that the real ones passed.
    """
    if real.clip is not None:
        features = features * (real.clip / features.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
    means, present = group_means(features, y if real.per_class else torch.zeros_like(y), len(real.values))
    both = (present & real.present).to(features.dtype)  # [R]
    return ((means - real.values).square().sum(1) * both).sum() / both.sum().clamp_min(1)


def _gap(classifier: Classifier, theta: Params, real: FeatureMeans, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Return (L_gap, its cotangent on the images x)."""
    x = x.requires_grad_()
    with classifier.still_statistics():
        value = gap_loss(real, classifier.features({name: p.detach() for name, p in theta.items()}, x), y)
    return float(value.detach()), torch.autograd.grad(value, x)[0]
