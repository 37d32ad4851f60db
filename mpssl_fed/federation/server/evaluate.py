"""The classifier on the server's held-out images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.models import Classifier
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


def evaluate(classifier: Classifier, images: Images | None) -> tuple[float | None, float | None]:
    """Return (accuracy in 0..1, mean cross-entropy) of ``classifier`` on ``images``, in eval mode on its own device.

    (None, None) without images; no loss where it is not finite.
    """
    if images is None:
        return None, None
    where = next(classifier.parameters()).device
    was_training = classifier.training
    classifier.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for first in range(0, len(images), BATCH):
            rows = torch.arange(first, min(first + BATCH, len(images)))
            batch = images.take(rows)
            logits = classifier(batch.floats(where)).float().cpu()
            correct += int((logits.argmax(1) == batch.y).sum())
            loss += float(F.cross_entropy(logits, batch.y, reduction="sum"))
    classifier.train(was_training)
    return correct / len(images), loss / len(images) if math.isfinite(loss) else None
