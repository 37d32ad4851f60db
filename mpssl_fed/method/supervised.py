"""The loss on labelled images: cross-entropy, where asked with a public weight for each class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.errors import UserError
from mpssl_fed.models import Classifier


def loss_weights(given: Sequence[float] | None, classifier: Classifier) -> Tensor | None:
    """Return ``method.loss_weights`` [K] brought to mean 1, beside the classifier's weights; None where none are given.

    UserError for another number of them than the task has classes.
    """
    if given is None:
        return None
    classes = len(classifier.classes)
    if len(given) != classes:
        raise UserError(f"method.loss_weights holds {len(given)} numbers; the task has {classes} classes, want one each")
    weights = torch.tensor(given, dtype=torch.float64)
    return (weights / weights.mean()).to(classifier.head.weight)


def supervised_loss(logits: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean over images of weights[y] x cross-entropy; logits [n, K], y [n], weights [K] or None, which is 1 each.

    Divided by n, not by the sum of the weights that were drawn as torch's own mean is: what an image adds must not depend on who
    else is in the batch, and of a single image, whose gradient is clipped, that quotient would take the weight away.
    """
    if weights is None:
        return F.cross_entropy(logits, y)
    return F.cross_entropy(logits, y, weights.to(logits.dtype), reduction="sum") / len(y)
