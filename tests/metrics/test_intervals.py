"""Resamples against scikit-learn's sample weights, and 95 % intervals that hold the truth in 95 % of simulated sets."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as sk

from mpssl_fed.metrics import Predictions, measure, wilson
from mpssl_fed.metrics.bootstrap import intervals, resampled
from tests.metrics.test_points import table

SETS = 2000


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from([None, 2]))
def test_a_resample_is_scikit_learn_s_sample_weight(seed: int, k: int, rounded: int | None) -> None:
    found = table(seed, k, n=30, rounded=rounded)
    weights = np.random.default_rng(seed).integers(0, 3, size=(30, 2)).astype(np.float64)
    values = resampled(found, weights)
    y, named, p = found.labels, found.named, found.probabilities
    for r in range(2):
        w = weights[:, r]
        assert values["accuracy"][r] == pytest.approx(sk.accuracy_score(y, named, sample_weight=w))
        squares = ((p - np.eye(k)[y]) ** 2).sum(1) / (2 if k == 2 else 1)
        assert values["brier"][r] == pytest.approx(np.average(squares, weights=w))
        known = sorted(set(y[w > 0]) | set(named[w > 0]))
        f1 = sk.f1_score(y, named, labels=known, average="macro", sample_weight=w, zero_division=0.0)
        assert values["macro_f1"][r] == pytest.approx(f1)
        areas = []
        for c in range(k):
            truth = y == c
            if len(set(truth[w > 0])) < 2:
                assert np.isnan(values[f"auroc {c}"][r])
                continue
            areas.append(sk.roc_auc_score(truth, p[:, c], sample_weight=w))
            assert values[f"auroc {c}"][r] == pytest.approx(areas[-1])
            average = sk.average_precision_score(truth, p[:, c], sample_weight=w)
            assert values[f"average_precision {c}"][r] == pytest.approx(average)
            assert values[f"sensitivity {c}"][r] == pytest.approx(sk.recall_score(truth, named == c, sample_weight=w))
            assert values[f"specificity {c}"][r] == pytest.approx(sk.recall_score(~truth, named != c, sample_weight=w))
        assert values["auroc"][r] == pytest.approx(np.mean(areas))


def test_the_seed_alone_decides_and_subjects_are_drawn_whole() -> None:
    found = table(3, 3, n=70)
    assert measure(found, seed=1) == measure(found, seed=1) != measure(found, seed=2)
    order = np.random.default_rng(0).permutation(70)  # the images of a subject may stand anywhere
    assert found.subjects is not None
    mixed = Predictions(found.probabilities[order], found.labels[order], found.classes, tuple(found.subjects[i] for i in order))
    there, again = intervals(found, seed=4)[0], intervals(mixed, seed=4)[0]
    assert there["auroc"] == pytest.approx(again["auroc"])
    alone = Predictions(found.probabilities, found.labels, found.classes, tuple(map(str, range(70))))
    copies = Predictions(
        np.repeat(found.probabilities, 9, 0), np.repeat(found.labels, 9), found.classes, tuple(np.repeat(alone.subjects, 9))
    )
    one, nine = intervals(alone, seed=4)[0]["auroc"], intervals(copies, seed=4)[0]["auroc"]
    assert one == pytest.approx(nine)  # nine copies of each image are no nine images


@pytest.mark.parametrize("truth", [0.6, 0.9])
def test_wilson_covers(truth: float) -> None:
    @cache
    def interval(right: int) -> tuple[float, float]:
        return wilson(right, 60)

    rights = np.random.default_rng(0).binomial(60, truth, size=SETS)
    held = np.mean([low <= truth <= high for low, high in map(interval, rights.tolist())])
    assert 0.94 <= held <= 0.97  # 95 % but for steps of 1/60 (0.9: exactly 0.9636) and 2,000 draws


def simulated(rng: np.random.Generator, subjects: int, images: int) -> Predictions:
    """Return predictions of ``subjects`` with so many images each, whose errors are their own; two classes."""
    own = rng.normal(size=subjects).repeat(images)
    y = rng.integers(2, size=subjects).repeat(images)
    logit = (2 * y - 1) + 1.2 * own + 0.6 * rng.normal(size=len(y))
    p = 1 / (1 + np.exp(-logit))
    names = tuple(map(str, np.arange(subjects).repeat(images)))
    return Predictions(np.stack([1 - p, p], 1), y, ("no", "yes"), names)


def test_resampling_covers_and_images_of_one_subject_are_no_subjects() -> None:
    """Sets of 40 subjects of 4 images. Taken for 160 draws of their own, intervals are far too narrow."""
    accuracy, auroc = norm.cdf(1 / np.hypot(1.2, 0.6)), norm.cdf(2 / np.hypot(1.2, 0.6) / np.sqrt(2))
    rng = np.random.default_rng(0)
    held = {"accuracy": 0, "auroc": 0, "as images": 0}
    for number in range(SETS):
        found = simulated(rng, 40, 4)
        by_subject = intervals(found, 80, seed=number)[0]
        for name, truth in (("accuracy", accuracy), ("auroc", auroc)):
            low, high = by_subject[name] or (0.0, 1.0)
            held[name] += low <= truth <= high
        low, high = wilson(int((found.named == found.labels).sum()), len(found))
        held["as images"] += low <= accuracy <= high
    shares = {name: n / SETS for name, n in held.items()}
    assert 0.93 <= shares["accuracy"] <= 0.97, shares
    assert 0.93 <= shares["auroc"] <= 0.97, shares
    assert shares["as images"] < 0.88, shares
