"""How a site evaluates the global model on what it holds out: exactly, where nothing private is at stake or the owner lets it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mpssl_fed.data.datasets import Images
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier

BATCH = 500


@torch.no_grad()
def exact_confusion(classifier: Classifier, images: Images, proceed: Callable[[], object] = bool) -> Tensor:
    """Return how many of ``images`` of each class ``classifier`` names as what: float32 [K, K], true class x named class.

    In eval mode, on the classifier's device, of plain images. ``proceed`` is called before each batch; what it raises ends it.
    EXACT: no epsilon covers it.
    """
    where, classes = classifier.head.weight.device, len(classifier.classes)
    plain = Views(False, classifier.size).plain
    was_training = classifier.training
    classifier.eval()
    named = []
    for rows in torch.split(torch.arange(len(images)), BATCH):
        proceed()
        named.append(classifier(plain(images.take(rows).floats(where))).argmax(1).cpu())
    classifier.train(was_training)
    counts = torch.bincount(images.y * classes + torch.cat(named), minlength=classes**2)
    return counts.view(classes, classes).float()
