"""The classifier on the server's held-out images."""

from __future__ import annotations

import torch

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
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


def evaluate(classifier: Classifier, images: Images | None) -> Scores:
    """Return the scores of ``classifier`` on ``images``, in eval mode on its own device; empty ones without images."""
    if images is None:
        return Scores()
    where = next(classifier.parameters()).device
    was_training = classifier.training
    classifier.eval()
    with torch.no_grad():
        batches = torch.split(torch.arange(len(images)), BATCH)
        parts = [classifier(images.take(rows).floats(where)).float().cpu() for rows in batches]
    classifier.train(was_training)
    return scores(torch.cat(parts), images.y)
