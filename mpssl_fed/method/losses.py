"""Unsupervised losses on weak and strong views of one synthetic batch, each under its own name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.config.learning import Method
from mpssl_fed.models import Classifier, Params, widened
from mpssl_fed.registry import Registry


class UnsupervisedLoss(Protocol):
    """A loss on two views. ``reaches_head``: it trains omega too. ``additive``: a mean over images, so slices add up."""

    reaches_head: bool
    additive: bool

    def __call__(self, classifier: Classifier, theta: Params, weak: Tensor, strong: Tensor) -> Tensor:
        """Return the scalar loss of views [n, C, S, S] at theta; it changes no state."""

    def observe(self, classifier: Classifier, theta: Params, weak: Tensor) -> None:
        """Update what the loss has learnt so far (thresholds), once a step, before the loss is taken."""

    def state(self) -> dict[str, Tensor]:
        """Return what continues from round to round at the site."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""


LOSSES: Registry[Callable[[Method, int], UnsupervisedLoss]] = Registry("losses")
"""Name -> (method section, number of classes) -> loss."""


class FeatureLoss:
    """A loss on the features of both views; stateless."""

    reaches_head = False

    def __init__(self, compare: Callable[[Tensor, Tensor], Tensor], additive: bool) -> None:
        self.compare, self.additive = compare, additive

    def __call__(self, classifier: Classifier, theta: Params, weak: Tensor, strong: Tensor) -> Tensor:
        """Return compare(g(weak), g(strong)); both views in one pass."""
        with classifier.still_statistics():
            first, second = widened(classifier.features(theta, torch.cat([weak, strong]))).chunk(2)
        return self.compare(first, second)

    def observe(self, classifier: Classifier, theta: Params, weak: Tensor) -> None:
        """Keep nothing."""

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set nothing."""


def scr(weak: Tensor, strong: Tensor) -> Tensor:
    """Return SCR, the mean of 1 - cos(g(weak), g(strong)) over features [n, d] (arXiv 2309.16143, as summarised)."""
    return (1 - F.cosine_similarity(weak, strong, dim=1)).mean()


def scr_stopgrad(weak: Tensor, strong: Tensor) -> Tensor:
    """Return SCR with the weak view held fixed, as FixMatch holds its targets."""
    return scr(weak.detach(), strong)


def infonce(weak: Tensor, strong: Tensor, temperature: float = 0.2) -> Tensor:
    """Return the symmetric InfoNCE loss (arXiv 1807.03748) of features [n, d]: view i against the n views of the other kind."""
    similarity = F.normalize(weak, dim=1) @ F.normalize(strong, dim=1).T / temperature  # [n, n]
    target = torch.arange(len(weak), device=weak.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


def vicreg(weak: Tensor, strong: Tensor, variance: float = 1.0, covariance: float = 0.04, target_std: float = 1.0) -> Tensor:
    """Return VICReg (arXiv 2105.04906) on raw features [n, d], no projection head.

    Mean squared difference + ``variance`` x mean hinge(target_std - std of each feature) + ``covariance`` x squared
    off-diagonal covariance / d; the last two averaged over the views.
    """
    n, d = weak.shape
    loss = F.mse_loss(weak, strong)
    for features in (weak, strong):
        centred = features - features.mean(0)
        std = (centred.square().sum(0) / (n - 1) + 1e-4).sqrt()
        off_diagonal = (centred.T @ centred / (n - 1)).square().sum() - (centred.square().sum(0) / (n - 1)).square().sum()
        loss = loss + (variance * F.relu(target_std - std).mean() + covariance * off_diagonal / d) / 2
    return loss


def _named(name: str, build: Callable[[Method], Callable[[Tensor, Tensor], Tensor]], additive: bool) -> None:
    LOSSES.add(name)(lambda method, _classes: FeatureLoss(build(method), additive))


def _infonce(method: Method) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda weak, strong: infonce(weak, strong, method.infonce_temperature)


def _vicreg(method: Method) -> Callable[[Tensor, Tensor], Tensor]:
    constants: dict[str, Any] = method.vicreg.model_dump()
    return lambda weak, strong: vicreg(weak, strong, **constants)


_named("scr", lambda _: scr, additive=True)
_named("scr-stopgrad", lambda _: scr_stopgrad, additive=True)
_named("infonce", _infonce, additive=False)
_named("vicreg", _vicreg, additive=False)
