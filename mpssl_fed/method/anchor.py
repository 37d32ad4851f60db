"""Hold the local model to the global model's logits on a fixed synthetic set: against client drift, at no privacy cost."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.config.federation import Anchor as Settings
from mpssl_fed.generators.base import Generator, fit_images
from mpssl_fed.models import Classifier, Params
from mpssl_fed.seeds import torch_rng


class Anchor:
    """weight x T^2 x KL(softmax(global / T) || softmax(local / T)) on a batch of the set (distillation, arXiv 1503.02531)."""

    def __init__(self, settings: Settings, classifier: Classifier, generator: Generator, seed: int) -> None:
        self.settings, self.classifier = settings, classifier
        reference = classifier.head.weight
        self.images = anchor_set(generator, settings.images, classifier.channels, classifier.size, seed).to(reference)

    @torch.no_grad()
    def begin_round(self, rng: torch.Generator) -> None:
        """Take the global model's logits on the whole set, once a round, while the classifier still holds its weights."""
        self.rng = rng
        with self.classifier.still_statistics():
            parts = [self.classifier(part) for part in torch.split(self.images, self.settings.batch)]
        self.target = F.log_softmax(torch.cat(parts) / self.settings.temperature, dim=1)

    def gradient(self, theta: Params) -> Params:
        """Return the gradient at theta of one batch of the set."""
        index = torch.randperm(len(self.images), generator=self.rng)[: self.settings.batch].to(self.images.device)
        with self.classifier.still_statistics():
            local = F.log_softmax(self.classifier.logits(theta, self.images[index]) / self.settings.temperature, dim=1)
        loss = F.kl_div(local, self.target[index], reduction="batchmean", log_target=True)
        scale = self.settings.weight * self.settings.temperature**2
        return dict(zip(theta, torch.autograd.grad(scale * loss, list(theta.values())), strict=True))


@lru_cache(maxsize=4)
@torch.no_grad()
def anchor_set(generator: Generator, n: int, channels: int, size: int, seed: int) -> Tensor:
    """Return the n images [n, channels, size, size] that all sites of a run share; public, so kept for the whole process."""
    rng = torch_rng(seed, "anchor")
    foundation = len(generator.classes)
    parts = []
    for start in range(0, n, 64):
        m = min(64, n - start)
        label = F.one_hot(torch.randint(foundation, (m,), generator=rng), foundation)
        z = generator.sample_z(m, rng)
        parts.append(fit_images(generator(z, label.to(z)), channels, size))
    return torch.cat(parts)
