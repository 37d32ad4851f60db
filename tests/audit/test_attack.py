"""ROC area, true positives at few false ones and exact intervals, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from mpssl_fed.audit.attack import auroc, clopper_pearson, success, true_positive_rate


def test_area_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 9, 200) + 1.0, rng.integers(0, 9, 300).astype(float)
    truth = np.concatenate([np.ones(200), np.zeros(300)])
    assert auroc(members, others) == pytest.approx(roc_auc_score(truth, np.concatenate([members, others])))


def test_rate_at_few_false_positives() -> None:
    others = np.arange(1000.0)
    members = np.array([988.5, 989.5, 998.5, 999.5])
    assert true_positive_rate(members, others, 0.01).value == 0.75  # ten others may lie above: the threshold is 989
    assert true_positive_rate(members, others, 0.001).value == 0.5
    assert true_positive_rate(members, np.arange(10.0), 0.01).value == 1.0


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20), (0, 1), (1, 1), (999, 1000), (1, 5000)])
@pytest.mark.parametrize("confidence", [0.95, 0.999])
def test_intervals_are_exact(k: int, n: int, confidence: float) -> None:
    """Clopper and Pearson by the quantiles of the beta distribution, as it was computed here before SciPy did."""
    alpha = (1 - confidence) / 2
    low = beta.ppf(alpha, k, n - k + 1) if k else 0.0
    high = beta.ppf(1 - alpha, k + 1, n - k) if k < n else 1.0
    assert clopper_pearson(k, n, confidence) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


def test_intervals_hold_what_they_estimate() -> None:
    rng = np.random.default_rng(1)
    found = success("any", rng.standard_normal(400) + 1, rng.standard_normal(400))
    assert found.auroc.low < 0.7602 < found.auroc.high  # Phi(1 / sqrt 2)
    assert found.auroc.low < found.auroc.value < found.auroc.high
    null = success("any", rng.standard_normal(400), rng.standard_normal(400))
    assert null.auroc.low < 0.5 < null.auroc.high
