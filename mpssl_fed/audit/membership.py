"""Membership inference on the published classifier: was this image among those that it was trained on?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpssl_fed.audit.attack import AttackSuccess, success
from mpssl_fed.audit.uncharged import Uncharged
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.generators.base import Generator
from mpssl_fed.method.build import build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Classifier
from mpssl_fed.privacy.build import private_data
from mpssl_fed.privacy.noise import FastNoise
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.seeds import numpy_rng

BATCH = 256
LEAST_DEVIATION = 1e-3

Train = Callable[[Images, int], Classifier]
"""(images to train on, number of the shadow) -> trained classifier."""


def infer(
    classifier: Classifier, members: Images, others: Images, train: Train | None = None, shadows: int = 8, seed: int = 0
) -> list[AttackSuccess]:
    """Return the success of the loss threshold, and of LiRA where ``train`` can make shadow models.

    members: images that ``classifier`` was trained on; others: of the same source, not trained on. Each shadow is trained on a
    random half of both, so that every image is in half of them. Where both sides name subjects, shadows hold whole ones and it is
    subjects that are told apart, by the mean score of their images: a person's images are no independent finds.
    """
    if not len(members) or not len(others):
        raise ValueError(f"{len(members)} members and {len(others)} others: both are needed")
    n = len(members)
    target = np.concatenate([confidence(classifier, members), confidence(classifier, others)])
    if members.subjects is None or others.subjects is None:
        members, others = replace(members, subjects=None), replace(others, subjects=None)
    unit = "image" if members.subjects is None else "subject"

    def judged(attack: str, scores: NDArray[np.float64]) -> AttackSuccess:
        return success(attack, _of_units(scores[:n], members), _of_units(scores[n:], others), seed, unit)

    found = [judged("loss threshold", target)]
    if train is not None:
        scores = lira(target, members, others, train, shadows, seed)
        found.append(judged(f"LiRA, {shadows} shadow models", scores))
    return found


def _of_units(scores: NDArray[np.float64], images: Images) -> NDArray[np.float64]:
    """Return the mean score of each unit's images, in order of their first ones."""
    unit = images.units()
    mean: NDArray[np.float64] = np.bincount(unit, scores) / np.bincount(unit)
    return mean


@torch.no_grad()
def confidence(classifier: Classifier, images: Images) -> NDArray[np.float64]:
    """Return log p_y - log(1 - p_y) of each image [n]: what the loss tells, on a scale where it is near normal."""
    where = classifier.head.weight
    classifier.eval()
    parts = []
    for rows in torch.split(torch.arange(len(images)), BATCH):
        some = images.take(rows)
        log_p = classifier(_centre(some.floats(where.device).to(where.dtype), classifier.size)).double().log_softmax(1)
        true = log_p.gather(1, some.y.to(where.device).unsqueeze(1)).squeeze(1)
        rest = log_p.scatter(1, some.y.to(where.device).unsqueeze(1), -torch.inf).logsumexp(1)
        parts.append((true - rest).cpu())
    return torch.cat(parts).numpy()


def lira(
    target: NDArray[np.float64], members: Images, others: Images, train: Train, shadows: int, seed: int
) -> NDArray[np.float64]:
    """Return the likelihood ratio of each image [n + m] (Carlini et al., arXiv 2112.03570, online, one spread for all
    images, as they advise for few shadow models). Both sides name subjects, or neither."""
    subjects = None if members.subjects is None or others.subjects is None else members.subjects + others.subjects
    pool = Images(torch.cat([members.x, others.x]), torch.cat([members.y, others.y]), subjects)
    unit = pool.units()
    rng = numpy_rng(seed, "shadow sets")
    inside = np.stack([rng.permutation(shadows) < shadows // 2 for _ in range(unit.max() + 1)])[unit]  # [images, shadows]
    seen = np.stack([confidence(train(pool.take(np.flatnonzero(inside[:, k])), k), pool) for k in range(shadows)], axis=1)
    means, spread = [], []
    for side in (inside, ~inside):
        count = side.sum(1)
        mean = (seen * side).sum(1) / count
        spread.append(np.sqrt((((seen - mean[:, None]) ** 2) * side).sum() / max(1, side.sum() - len(pool))))
        means.append(mean)
    (mean_in, mean_out), (std_in, std_out) = means, (max(std, LEAST_DEVIATION) for std in spread)
    ratio: NDArray[np.float64] = ((target - mean_out) / std_out) ** 2 / 2 - ((target - mean_in) / std_in) ** 2 / 2
    return ratio


def shadow_trainer(
    config: Config,
    build: Callable[[], Classifier],
    generator: Generator | None,
    flip: bool,
    steps: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Train:
    """Return what trains a shadow as one site trains: the run's method, privacy and number of steps, on one set of images.

    build: a new classifier with the run's public initial weights; steps: at most so many; progress is told each shadow's
    number as it is done.
    """

    def train(images: Images, k: int) -> Classifier:
        parts = Parts(images, build(), generator, flip)
        private = None
        if config.privacy.on:
            plan, noise = plan_for(config).alone(), FastNoise()  # public data, and many models
            private = private_data(config, parts, plan=plan, charge=Uncharged(plan.history()), noise=noise)
        learner = build_learner(config, parts, site=1_000_000 + k, private=private)
        left = steps or config.federation.rounds * config.federation.local_steps
        for number in range(1, config.federation.rounds + 1):
            taken = min(left, config.federation.local_steps)
            if taken < 1:
                break
            learner.train(number, taken)
            left -= taken
        if progress is not None:
            progress(k)
        return parts.classifier

    return train


def _centre(x: Tensor, size: int) -> Tensor:
    """Return the middle size x size pixels of images stored larger than the classifier sees."""
    edge = (x.shape[-1] - size) // 2
    return x[..., edge : edge + size, edge : edge + size] if edge > 0 else x
