"""Metrics against scikit-learn's own averages, and what a table of predictions cannot say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from mpssl_fed.errors import UserError
from mpssl_fed.metrics import Metrics, Predictions, Value, measure
from mpssl_fed.metrics.points import OVERALL, overall, points, reliability


def table(seed: int, k: int, n: int = 40, rounded: int | None = None, every: bool = True) -> Predictions:
    """Return random predictions; every: each class has an image; rounded: to so many decimals, which makes ties."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k) if every else [], rng.integers(k, size=n - (k if every else 0))]).astype(np.int64)
    p = rng.dirichlet(np.ones(k), size=n) + 0.3 * np.eye(k)[y]
    p /= p.sum(1, keepdims=True)
    if rounded is not None:
        p = np.round(p * 10**rounded) + 0.01  # off the edges of bins, which scikit-learn gives to the other side
        p /= p.sum(1, keepdims=True)
    return Predictions(p, y, tuple(f"c{i}" for i in range(k)), tuple(f"s{i % 7}" for i in range(n)))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from([None, 2]))
def test_they_are_scikit_learn_s(seed: int, k: int, rounded: int | None) -> None:
    found = table(seed, k, rounded=rounded)
    y, p, named, (values, classes) = found.labels, found.probabilities, found.named, points(found)
    one_hot = np.eye(k, dtype=int)[y]
    expected = {
        "accuracy": sk.accuracy_score(y, named),
        "balanced_accuracy": sk.balanced_accuracy_score(y, named),
        "macro_f1": sk.classification_report(y, named, output_dict=True, zero_division=0.0)["macro avg"]["f1-score"],
        "auroc": sk.roc_auc_score(one_hot, p, average="macro"),
        "average_precision": sk.average_precision_score(one_hot, p, average="macro"),
        "brier": ((p - one_hot) ** 2).sum(1).mean() / (2 if k == 2 else 1),
    }
    top, right = p.max(1), named == y
    share, confidence = calibration_curve(right, np.nextafter(top, 0), n_bins=10)  # its bins are [low, high)
    bins = np.histogram(np.nextafter(top, 0), np.linspace(0, 1, 11))[0]
    expected["ece"] = sum(n / len(y) * abs(a - b) for n, a, b in zip(bins[bins > 0], share, confidence, strict=True))
    assert values == pytest.approx(expected, abs=1e-9)
    assert [row.images for row in reliability(found)] == bins[bins > 0].tolist()
    for index, (tn, fp, fn, tp) in enumerate(m.ravel() for m in sk.multilabel_confusion_matrix(y, named, labels=range(k))):
        of = classes[index]
        assert (of["sensitivity"], of["specificity"]) == pytest.approx((tp / (tp + fn), tn / (tn + fp)))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6))
def test_of_any_table_each_number_is_within_its_interval_or_unknown(seed: int, k: int, n: int) -> None:
    """Tables of few images, in which classes are absent, never named, or alone."""
    found = measure(table(seed, k, n, every=False), resamples=50)
    text = json.dumps(found.to_json(), allow_nan=False)
    assert Metrics.from_json(json.loads(text)) == found
    values = [*found.overall.values(), *(getattr(c, key) for c in found.classes for key in ("sensitivity", "specificity", "auroc"))]
    for value in values:
        assert (value.low is None) == (value.high is None)
        assert value.value is None or value.value >= 0
        assert value.low is None or value.low <= value.high  # type: ignore[operator]
    assert tuple(found.overall) == OVERALL
    assert found.images == n == sum(c.images for c in found.classes) == sum(c.named for c in found.classes)


def test_what_cannot_be_said_is_unknown() -> None:
    p, names = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]), ("a", "b", "never")
    some = measure(Predictions(p, np.array([0, 1, 1]), names))
    never = some.classes[2]
    assert (never.images, never.named) == (0, 0)
    assert never.sensitivity == never.auroc == never.average_precision == Value(None)
    assert never.specificity.value == 1.0
    assert some.value("balanced_accuracy") == pytest.approx((1 + 1 / 2) / 2)  # of the two classes that are there
    assert some.value("macro_f1") == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert some.value("auroc") == some.classes[0].auroc.value == some.classes[1].auroc.value == 1.0
    only = measure(Predictions(p, np.array([0, 0, 0]), names))  # one class alone: nothing to be told from
    assert (only.value("auroc"), only.value("average_precision"), only.classes[0].specificity.value) == (None, None, None)
    assert only.classes[0].sensitivity.value == pytest.approx(2 / 3)
    unnamed = measure(Predictions(p, np.array([0, 1, 2]), names))
    assert unnamed.classes[2].sensitivity.value == 0.0  # it has an image, which was named another: known, and 0
    one = measure(Predictions(p[:1], np.array([0]), names))
    assert (one.resamples, one.overall["balanced_accuracy"]) == (0, Value(1.0))
    assert one.overall["accuracy"].low == pytest.approx(0.2065, abs=1e-4)  # Wilson's of 1 in 1
    one_subject = measure(Predictions(p, np.array([0, 1, 1]), names, ("p", "p", "p")))
    assert (one_subject.resamples, one_subject.subjects, one_subject.overall["accuracy"].low) == (0, 1, None)
    task_of_one = measure(Predictions(np.ones((3, 1)), np.zeros(3, int), ("a",)))
    assert (task_of_one.value("accuracy"), task_of_one.value("auroc"), task_of_one.value("brier")) == (1.0, None, None)


def test_near_certainty_still_ranks() -> None:
    logits = np.array([[40.0, 0.0], [50.0, 0.0], [60.0, 0.0], [70.0, 0.0]])  # probabilities that are all 1
    assert overall(Predictions.of_logits(logits, [1, 1, 0, 0], "ab"))["auroc"] == 1.0


@pytest.mark.parametrize(
    ("p", "y", "more", "words"),
    [
        ([[0.5, np.nan]], [0], {}, "image 0 are not finite"),
        ([[0.5, 0.5], [0.9, 0.9]], [0, 1], {}, "image 1 sum to 1.8"),
        ([[1.5, -0.5]], [0], {}, "leave 0..1"),
        ([[0.5, 0.5]], [2], {}, "label 2 of image 0"),
        ([[0.5, 0.5]], [0.0], {}, "want 1 integers"),
        (np.zeros((0, 2)), np.zeros(0, int), {}, r"want \[n, 2\]"),
        ([[1.0]], [0], {}, r"want \[n, 2\]"),
        ([[0.5, 0.5]], [0], {"subjects": ("a", "b")}, "2 subjects"),
    ],
)
def test_a_table_that_is_none_is_refused(p: object, y: object, more: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Predictions(np.asarray(p), np.asarray(y), ("a", "b"), **more)
    with pytest.raises(UserError, match="train it again"):
        Predictions.of_logits([[np.inf, 0.0]], [0], "ab")
