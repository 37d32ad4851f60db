"""The meta-gradient by other roads: the whole graph kept, an outside library, and differences of the true objective."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchopt
from torch import Tensor

from mpssl_fed.method.lmo import MetaSettings, Views, gap_loss
from mpssl_fed.method.losses import UnsupervisedLoss
from mpssl_fed.method.private_data import ExactPrivateData
from mpssl_fed.method.sources import LatentDraw, MetaOptimised
from mpssl_fed.models import Classifier, Params


def objective(
    classifier: Classifier,
    loss: UnsupervisedLoss,
    private: ExactPrivateData,
    source: MetaOptimised,
    theta: Params,
    g_sup: Params,
    draw: LatentDraw,
    views: Views,
    settings: MetaSettings,
) -> Tensor:
    """Return L_val(theta'(latents)) + lambda_gap L_gap with the whole graph, as the definition says."""
    x = source.from_latents(draw)
    weak, strong = views(x, torch.arange(len(x)))
    leaves = {name: p.detach().requires_grad_() for name, p in theta.items()}
    names = [name for name in leaves if loss.reaches_head or name.startswith("body.")]
    value = loss(classifier, leaves, weak, strong)
    g_unsup = dict(zip(names, torch.autograd.grad(value, [leaves[n] for n in names], create_graph=True), strict=True))
    ahead = {}
    for name, p in leaves.items():
        g = g_sup[name] + settings.weight * g_unsup[name] if name in g_unsup else g_sup[name]
        ahead[name] = p - settings.look_ahead * g
    x_val, y_val = private.val
    total = F.cross_entropy(classifier.logits(ahead, private.plain(x_val)), y_val)
    if settings.gap_weight:
        features = classifier.features({name: p.detach() for name, p in theta.items()}, x)
        total = total + settings.gap_weight * gap_loss(private.mean_feature(theta), features, draw.y)
    return total


def naive(source: MetaOptimised, value: Tensor) -> list[Tensor]:
    """Return the gradient of the objective through its whole graph."""
    return list(torch.autograd.grad(value, list(source.latents.parameters())))


def by_torchopt(
    classifier: Classifier,
    loss: UnsupervisedLoss,
    private: ExactPrivateData,
    source: MetaOptimised,
    supervised: Tensor,
    draw: LatentDraw,
    views: Views,
    settings: MetaSettings,
) -> list[Tensor]:
    """Return the gradient of L_val(theta') alone, the look-ahead taken by torchopt's differentiable SGD on the module itself.

    supervised: L_sup(theta) of the module's own parameters, with its graph.
    """
    before = torchopt.extract_state_dict(classifier, by="reference")
    inner = torchopt.MetaSGD(classifier, lr=settings.look_ahead)
    x = source.from_latents(draw)
    weak, strong = views(x, torch.arange(len(x)))
    inner.step(supervised + settings.weight * loss(classifier, dict(classifier.named_parameters()), weak, strong))
    x_val, y_val = private.val
    value = F.cross_entropy(classifier(private.plain(x_val)), y_val)
    gradient = torch.autograd.grad(value, list(source.latents.parameters()))
    torchopt.recover_state_dict(classifier, before)
    return list(gradient)


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Return || one - other || / || other ||."""
    a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (one, other))
    return float((a - b).norm() / b.norm())
