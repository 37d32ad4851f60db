"""The only door to a site's images: three reads a step. Here the protocol and its exact form; the noised one is in privacy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.data.datasets import Images
from mpssl_fed.method.supervised import supervised_loss
from mpssl_fed.method.validation import Split
from mpssl_fed.models import Classifier, Params, widened
from mpssl_fed.seeds import torch_rng

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class FeatureMeans:
    """Mean features of private images. values [R, d]; present [R] bool; R is the number of classes, or 1 for a global mean.

    clip: the L2 radius the features were clipped to (synthetic ones must pass the same clip), or None. spread: mean squared
    distance of the features from their mean over all classes; None where nobody may read it, 0 of a single image.
    """

    values: Tensor
    present: Tensor
    per_class: bool
    clip: float | None = None
    spread: Tensor | None = None


class PrivateData(Protocol):
    """What the training step may ask of a site's images. Every answer is exact, or a release under differential privacy."""

    @property
    def last_loss(self) -> float | None:
        """The supervised loss of the latest read, for the progress line; None of a release, which tells no loss."""

    def class_weights(self) -> Tensor:
        """Return the weight of each task class [K], on the CPU: the share of the training labels, or public numbers."""

    def begin_round(self, rng: torch.Generator, augment_rng: torch.Generator) -> None:
        """Set the public random streams of a round (a private implementation takes its draws from elsewhere)."""

    def supervised_gradient(self, theta: Params) -> Params:
        """Return the gradient of L_sup at theta, keyed like theta."""

    def validation_gradient(self, theta_prime: Params) -> Params:
        """Return the gradient of L_val at theta', keyed like theta' or a part of it (what is released)."""

    def mean_feature(self, psi: Params) -> FeatureMeans:
        """Return the mean feature(s) of the private images at psi."""

    def class_features(self, psi: Params) -> FeatureMeans:
        """Return the mean feature of each class over all training images, for the closed form. No release: UserError under DP."""

    def foundation_labels(self, foundation: nn.Module) -> Tensor:
        """Return rows of foundation probabilities [m, K_F] for P-SSL to draw from; read once a run."""


@dataclass(frozen=True)
class LabelledViews:
    """How exact reads see the labelled images. augment: the labelled batch, and an image that is validated on though it is trained
    on; plain: what an image that is not augmented passes (a centre crop where it is stored larger than the classifier's input);
    loss_weights: of each class [K], see :func:`mpssl_fed.method.supervised.supervised_loss`.
    """

    augment: Augment
    plain: Callable[[Tensor], Tensor]
    loss_weights: Tensor | None = None


class ExactPrivateData:
    """Exact gradients and means of minibatches drawn from D_train and D_val by the public streams of the round.

    split: the site's labelled images; batch_size: images a read (all of them where the site has fewer).
    """

    last_loss: float | None

    def __init__(
        self,
        classifier: Classifier,
        split: Split,
        views: LabelledViews,
        batch_size: int,
        per_class: bool = True,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.classifier, self.augment, self.plain = classifier, views.augment, views.plain
        self.batch_size, self.per_class, self.loss_weights = batch_size, per_class, views.loss_weights
        self.autocast = autocast
        self.train = self._loaded(split.train)
        self.val = self.train if split.val is split.train else self._loaded(split.val)
        self.again = torch.from_numpy(split.again).to(self.val[1].device)
        self._labels = split.train.y
        self.last_loss = None
        self.begin_round(torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))

    def begin_round(self, rng: torch.Generator, augment_rng: torch.Generator) -> None:
        """Set the streams that draw batches and augment them; what LMO reads has one apart, so that it shifts no batch."""
        self.rng, self.augment_rng, self._seed = rng, augment_rng, rng.initial_seed()
        self._meta_rng: torch.Generator | None = None

    @property
    def meta_rng(self) -> torch.Generator:
        """The stream of what LMO reads; most methods never do."""
        if self._meta_rng is None:
            self._meta_rng = torch_rng(self._seed, "what LMO reads")
        return self._meta_rng

    def class_weights(self) -> Tensor:
        """Return the share of each class in D_train [K]."""
        return self._labels.bincount(minlength=len(self.classifier.classes)) / len(self._labels)

    def supervised_gradient(self, theta: Params) -> Params:
        """Return the gradient of the mean cross-entropy of one augmented batch of D_train."""
        x, y = self.train
        if len(y) > self.batch_size:
            index = self._draw(len(y), self.batch_size, self.rng)
            x, y = x[index], y[index]
        with self.autocast():
            logits = widened(self.classifier.logits(theta, self.augment(x, self.augment_rng)))
            loss = supervised_loss(logits, y, self.loss_weights)
        self.last_loss = float(loss.detach())
        return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))

    def validation_gradient(self, theta_prime: Params) -> Params:
        """Return the gradient of the mean cross-entropy of one batch of D_val, by running statistics.

        Plain images, or other views of those that D_train holds too. In float32, as the meta-gradient needs.
        """
        index = self._draw(len(self.val[1]), self.batch_size, self.meta_rng)
        leaves = {name: p.detach().requires_grad_() for name, p in theta_prime.items()}
        with self.classifier.running_statistics():
            loss = supervised_loss(self.classifier.logits(leaves, self._validated(index)), self.val[1][index], self.loss_weights)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def mean_feature(self, psi: Params) -> FeatureMeans:
        """Return the mean feature of one plain batch of D_train (four times the usual size), per class or over all."""
        return self._means(psi, self._draw(len(self.train[1]), 4 * self.batch_size, self.meta_rng), self.per_class)

    def class_features(self, psi: Params) -> FeatureMeans:
        """Return the mean feature of each class over all of D_train."""
        return self._means(psi, torch.arange(len(self.train[1])), per_class=True)

    @torch.no_grad()
    def foundation_labels(self, foundation: nn.Module) -> Tensor:
        """Return softmax(foundation(x)) [n, K_F], one row for each image of D_train."""
        parts = [foundation(self.plain(x)).softmax(1) for x in torch.split(self.train[0], 4 * self.batch_size)]
        return torch.cat(parts)

    @torch.no_grad()
    def _means(self, psi: Params, index: Tensor, per_class: bool) -> FeatureMeans:
        with self.classifier.running_statistics():
            parts = [self.classifier.features(psi, self.plain(self.train[0][i])) for i in torch.split(index, 4 * self.batch_size)]
        features, y = torch.cat(parts), self.train[1][index]  # [n, d]
        rows = len(self.classifier.classes) if per_class else 1
        values, present = group_means(features, y if per_class else torch.zeros_like(y), rows)
        return FeatureMeans(values, present, per_class, spread=(features - features.mean(0)).square().sum(1).mean())

    def _validated(self, index: Tensor) -> Tensor:
        """Return what the classifier sees of the images ``index`` of D_val."""
        x, again = self.val[0][index], self.again[index]
        if not again.any():
            return self.plain(x)
        views = self.augment(x, self.meta_rng)
        return views if again.all() else torch.where(again.view(-1, 1, 1, 1), views, self.plain(x))

    def _draw(self, size: int, n: int, rng: torch.Generator) -> Tensor:
        """Return n of ``size`` places at random, all of them in order where there are not more."""
        index = torch.arange(size) if size <= n else torch.randperm(size, generator=rng)[:n]
        return index.to(self.train[0].device)

    def _loaded(self, images: Images) -> tuple[Tensor, Tensor]:
        weight = self.classifier.head.weight
        return images.floats(weight.device).to(weight.dtype).contiguous(), images.y.to(weight.device)


def group_means(features: Tensor, groups: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return (means [rows, d], present [rows] bool) of features [n, d] by group [n]; the mean of an absent group is 0."""
    one_hot = F.one_hot(groups, rows).to(features.dtype)  # [n, rows]
    counts = one_hot.sum(0)
    return (one_hot.T @ features) / counts.clamp_min(1).unsqueeze(1), counts > 0
