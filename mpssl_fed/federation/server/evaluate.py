"""The classifier on the server's held-out images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.metrics import Metrics, Predictions, measure
from mpssl_fed.models import Classifier
from mpssl_fed.models.scores import Scores, scores
from mpssl_fed.seeds import torch_rng

BATCH = 500


def test_images(config: Config) -> Images | None:
    """Return the images of ``data.held_out``, or with ``data.test_limit`` the first so many of them in seeded random order.

    None where the server has none: ``data.name=none``, which needs ``data.task``.
    """
    if config.data.name == parts.NO_DATA:
        if config.data.task is None:
            raise UserError("data.name=none: a server without images must say data.task (classes, size, channels)")
        return None
    images, limit = parts.dataset(config).test, config.data.test_limit
    if limit is None or limit >= len(images):
        return images
    return images.take(torch.randperm(len(images), generator=torch_rng(config.seed, "test"))[:limit])


def guessing(images: Images | None) -> dict[str, int] | None:
    """Return how many images there are and how many the largest class has: what always naming that class gets right.

    None without images.
    """
    return None if images is None else {"images": len(images), "largest_class": int(torch.bincount(images.y).max())}


def evaluate(classifier: Classifier, images: Images | None) -> tuple[Scores, Tensor | None]:
    """Return the scores of ``classifier`` on ``images`` and its logits [n, K], in eval mode on its own device.

    Without images scores are empty and logits None.
    """
    if images is None:
        return Scores(), None
    where = next(classifier.parameters()).device
    was_training = classifier.training
    classifier.eval()
    with torch.no_grad():
        batches = torch.split(torch.arange(len(images)), BATCH)
        parts = [classifier(images.take(rows).floats(where)).float().cpu() for rows in batches]
    classifier.train(was_training)
    logits = torch.cat(parts)
    return scores(logits, images.y), logits


def clinical(logits: Tensor | None, images: Images | None, classes: Sequence[str]) -> Metrics | None:
    """Return what clinical users report of ``logits`` on ``images``; None without images, and of a model that diverged."""
    if logits is None or images is None or not logits.isfinite().all():
        return None
    return measure(Predictions.of_logits(logits.double().numpy(), images.y.numpy(), classes, images.subjects))
