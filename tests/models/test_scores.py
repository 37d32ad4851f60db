"""Balanced accuracy and AUROC against scikit-learn's, and where classes or numbers are missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from mpssl_fed.models.scores import Scores, area_under_curve, scores


@given(st.integers(0, 10_000), st.integers(2, 4), st.booleans())
def test_they_are_scikit_learn_s(seed: int, classes: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.choice(classes, 30, p=np.arange(1, classes + 1) / sum(range(1, classes + 1)))])
    logits = rng.normal(size=(len(y), classes)).astype(np.float32) + (y[:, None] == np.arange(classes))
    logits = np.round(logits) if ties and classes == 2 else logits  # of more, rounding in sums may part what is tied
    found = scores(torch.from_numpy(logits), torch.from_numpy(y))
    wide = torch.from_numpy(logits).double()
    assert found.accuracy == np.mean(logits.argmax(1) == y)
    assert found.balanced == pytest.approx(balanced_accuracy_score(y, logits.argmax(1)))
    chances = wide.softmax(1).numpy()
    assert found.auroc == pytest.approx(np.mean([roc_auc_score(y == k, chances[:, k]) for k in range(classes)]))


def test_a_rare_class_counts_as_much_as_a_common_one() -> None:
    logits, y = torch.tensor([[1.0, 0.0]]).repeat(10, 1), torch.tensor([0] * 9 + [1])
    assert scores(logits, y) == Scores(accuracy=0.9, loss=pytest.approx(0.4133, abs=1e-3), balanced=0.5, auroc=0.5)


def test_what_cannot_be_said_is_none() -> None:
    alone = scores(torch.zeros(3, 4), torch.full((3,), 2))
    assert (alone.balanced, alone.auroc) == (0.0, None)
    broken = scores(torch.tensor([[float("nan"), 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert (broken.loss, broken.auroc) == (None, None)
    absent = scores(torch.eye(3)[:2], torch.tensor([0, 1]))  # the third class has no image: it counts in none
    assert (absent.accuracy, absent.balanced, absent.auroc) == (1.0, 1.0, 1.0)


def test_near_certainty_still_ranks() -> None:
    """Probabilities that are all 1 in float32: the logits still tell them apart."""
    logits = torch.stack([torch.tensor([40.0, 50.0, 60.0, 70.0]), torch.zeros(4)], 1)
    assert scores(logits, torch.tensor([1, 1, 0, 0])).auroc == 1.0
    assert area_under_curve(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([True, False, True])) == 0.75
