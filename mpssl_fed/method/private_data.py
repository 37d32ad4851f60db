"""The only door to a site's images: three reads a step. Here the protocol and its exact form; the noised one is in privacy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.data.datasets import Images
from mpssl_fed.models import Classifier, Params, widened

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class FeatureMeans:
    """Mean features of private images. values [R, d]; present [R] bool; R is the number of classes, or 1 for a global mean.

    clip: the L2 radius the features were clipped to (synthetic ones must pass the same clip), or None.
    """

    values: Tensor
    present: Tensor
    per_class: bool
    clip: float | None = None


class PrivateData(Protocol):
    """What the training step may ask of a site's images. Every answer is exact, or a release under differential privacy."""

    def begin_round(self, rng: torch.Generator, augment_rng: torch.Generator) -> None:
        """Set the public random streams of a round (a private implementation takes its draws from elsewhere)."""

    def supervised_gradient(self, theta: Params) -> Params:
        """Return the gradient of L_sup at theta, keyed like theta."""

    def validation_gradient(self, theta_prime: Params) -> Params:
        """Return the gradient of L_val at theta', keyed like theta' or a part of it (what is released)."""

    def mean_feature(self, psi: Params) -> FeatureMeans:
        """Return the mean feature(s) of the private images at psi."""

    def foundation_labels(self, foundation: nn.Module) -> Tensor:
        """Return rows of foundation probabilities [m, K_F] for P-SSL to draw from; read once a run."""


def split_validation(y: np.ndarray, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return index arrays (D_train, D_val), stratified: a class of n images gives round(fraction n) to D_val.

    A class too small to give one (n = 1 always) stands in both, so that D_val knows every class that D_train knows.
    """
    train, val = [], []
    for label in np.unique(y):
        index = rng.permutation(np.flatnonzero(y == label))
        held = min(round(fraction * len(index)), len(index) - 1)
        train.append(index[held:])
        val.append(index[:held] if held else index)
    if not train:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


class ExactPrivateData:
    """Exact gradients and means of minibatches drawn from D_train and D_val by the public streams of the round.

    train, val: the site's labelled images; augment: augmentation of the labelled batch; plain: what an image that is not
    augmented passes (a centre crop where it is stored larger than the classifier's input); batch_size: images a read (all of
    them where the site has fewer). ``last_loss`` is the supervised loss of the latest read, for the progress line.
    """

    def __init__(
        self,
        classifier: Classifier,
        train: Images,
        val: Images,
        augment: Augment,
        plain: Callable[[Tensor], Tensor],
        batch_size: int,
        per_class: bool = True,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.classifier, self.augment, self.plain = classifier, augment, plain
        self.batch_size, self.per_class = batch_size, per_class
        self.autocast = autocast
        device = classifier.head.weight.device
        dtype = classifier.head.weight.dtype
        self.train = (train.floats(device).to(dtype), train.y.to(device))
        self.val = (val.floats(device).to(dtype), val.y.to(device))
        self.last_loss = float("nan")
        self.begin_round(torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))

    def begin_round(self, rng: torch.Generator, augment_rng: torch.Generator) -> None:
        """Set the streams that draw batches and augment them."""
        self.rng, self.augment_rng = rng, augment_rng

    def supervised_gradient(self, theta: Params) -> Params:
        """Return the gradient of the mean cross-entropy of one augmented batch of D_train."""
        x, y = self._draw(self.train)
        with self.autocast():
            loss = F.cross_entropy(widened(self.classifier.logits(theta, self.augment(x, self.augment_rng))), y)
        self.last_loss = float(loss.detach())
        return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))

    def validation_gradient(self, theta_prime: Params) -> Params:
        """Return the gradient of the mean cross-entropy of one plain batch of D_val; float32, as the meta-gradient needs."""
        x, y = self._draw(self.val)
        leaves = {name: p.detach().requires_grad_() for name, p in theta_prime.items()}
        with self.classifier.still_statistics():
            loss = F.cross_entropy(self.classifier.logits(leaves, self.plain(x)), y)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    @torch.no_grad()
    def mean_feature(self, psi: Params) -> FeatureMeans:
        """Return the mean feature of one plain batch of D_train (four times the usual size), per class or over all."""
        x, y = self._draw(self.train, 4 * self.batch_size)
        with self.classifier.still_statistics():
            features = self.classifier.features(psi, self.plain(x))  # [n, d]
        groups = y if self.per_class else torch.zeros_like(y)
        rows = len(self.classifier.classes) if self.per_class else 1
        values, present = group_means(features, groups, rows)
        return FeatureMeans(values, present, self.per_class)

    @torch.no_grad()
    def foundation_labels(self, foundation: nn.Module) -> Tensor:
        """Return softmax(foundation(x)) [n, K_F], one row for each image of D_train."""
        parts = [foundation(self.plain(x)).softmax(1) for x in self.train[0].split(4 * self.batch_size)]
        return torch.cat(parts)

    def _draw(self, data: tuple[Tensor, Tensor], size: int | None = None) -> tuple[Tensor, Tensor]:
        x, y = data
        size = size or self.batch_size
        if len(x) <= size:
            return x, y
        index = torch.randperm(len(x), generator=self.rng)[:size].to(x.device)
        return x[index], y[index]


def group_means(features: Tensor, groups: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return (means [rows, d], present [rows] bool) of features [n, d] by group [n]; the mean of an absent group is 0."""
    one_hot = F.one_hot(groups, rows).to(features.dtype)  # [n, rows]
    counts = one_hot.sum(0)
    return (one_hot.T @ features) / counts.clamp_min(1).unsqueeze(1), counts > 0
