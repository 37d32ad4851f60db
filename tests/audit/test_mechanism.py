"""The mechanism audit stays below an honest claim with margin to see, and above it for each planted fault.

The noise is fresh each time. By the binomial laws of the trials beyond each threshold (a million, sigma 2, claim 1.99): an honest
release is accused with probability 7e-9 and proves less than 1.1 with 6e-26; half the noise proves less than 2.5 with 5e-23, and
no clip less than 3 or 3.5 with 0 to double precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from torch import Tensor

from mpssl_fed.audit.mechanism import CUTS, MechanismAudit, audit_release, epsilon_lower_bound
from mpssl_fed.models import Params
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.privacy.units import clipping
from tests.privacy.release_cases import KINDS, clipped_sum, digits, make, unclipped
from tests.privacy.test_faults import HalfNoise, TrueBatch

DELTA = 1e-5


def audit(kind: Kind, cls: type[DPPrivateData] = DPPrivateData, sigma: float = 2.0, q: float = 1.0) -> MechanismAudit:
    """Audit a release on a real digit whose vector is three times as long as its clip bound."""
    far = {f"clip_{k}": 1e3 for k in KINDS}
    raw = float(clipped_sum(make(digits(1), **far), kind, [0]).norm()) if kind != "feature" else 3.0
    changes = {f"sigma_{kind}": sigma, f"clip_{kind}": raw / 3, "q": q}
    private = make(digits(1), cls=cls, **changes)
    claimed = accounting.epsilon({(sigma, q): 1}, DELTA)
    return audit_release(private, kind, claimed, DELTA)


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_release_passes(kind: Kind) -> None:
    found = audit(kind)
    assert found.claimed == pytest.approx(1.99, abs=0.03)
    assert found.passed
    assert found.lower_bound > 0.55 * found.claimed, "the audit has no power"


def test_a_subsampled_release_passes() -> None:
    found = audit("gradient", sigma=1.0, q=0.2)
    assert found.passed
    assert found.lower_bound > 0.3 * found.claimed


@pytest.mark.parametrize("kind", KINDS)
def test_half_the_noise_is_caught(kind: Kind) -> None:
    found = audit(kind, HalfNoise)
    assert found.lower_bound > found.claimed + 0.5
    assert found.noise_ratio == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["gradient", "meta"])
def test_a_missing_clip_is_caught(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "clip_and_sum", unclipped)
    found = audit(kind)
    assert found.lower_bound > found.claimed + 1.0


class NoFeatureClip(DPPrivateData):
    """Sums features of three times the length that the noise is made for."""

    def feature_sum(self, psi: Params, batch: Sequence[Tensor]) -> list[Tensor]:
        honest = self.settings
        self.settings = replace(honest, plan=replace(honest.plan, clip_feature=3 * honest.plan.clip_feature))
        try:
            return super().feature_sum(psi, batch)
        finally:
            self.settings = honest


def test_a_missing_clip_of_features_is_caught() -> None:
    found = audit("feature", NoFeatureClip)
    assert found.lower_bound > found.claimed + 1.0


def test_division_by_the_true_batch_is_caught_by_the_noise_ratio() -> None:
    """Its epsilon bound falls (one unit, a batch of one or none), so the ratio has to tell."""
    found = audit("gradient", TrueBatch)
    assert not found.passed
    assert abs(found.noise_ratio - 1) > 0.5


def test_the_bound_is_that_of_known_distributions() -> None:
    """N(0, 1) against N(mu, 1): below the exact epsilon at delta, and near it; equal distributions prove nothing."""
    rng = np.random.default_rng(0)
    outside, mu = rng.standard_normal(1_000_000), 1.0
    inside = rng.standard_normal(1_000_000) + mu
    exact = 4.38  # of the Gaussian mechanism at sigma 1 and delta 1e-5
    divergence = norm.cdf(mu / 2 - exact / mu) - math.exp(exact) * norm.cdf(-mu / 2 - exact / mu)
    assert divergence == pytest.approx(DELTA, rel=0.1)
    assert 2.7 < epsilon_lower_bound(inside, outside, DELTA, CUTS) < exact
    mirrored = epsilon_lower_bound(-outside, -inside, DELTA, CUTS)
    assert mirrored == pytest.approx(epsilon_lower_bound(inside, outside, DELTA, CUTS), rel=1e-9)
    assert epsilon_lower_bound(rng.standard_normal(100_000), rng.standard_normal(100_000), DELTA, CUTS) < 0.05


def test_the_bound_is_kept_at_its_confidence_and_varies_little() -> None:
    """Where a threshold lies at the worst place of a mechanism, so that nothing makes the bound loose: randomised response."""
    rng, epsilon, n = np.random.default_rng(1), 1.0, 20_000
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))
    bounds = []
    for _ in range(400):
        inside, outside = (np.where(rng.random(n) < p, 1.0, 0.0) for p in (truth, 1 - truth))
        bounds.append(epsilon_lower_bound(inside, outside, 0.0, np.array([0.5]), confidence=0.9))
    assert np.mean(np.array(bounds) > epsilon) < 0.1
    assert epsilon - 0.1 < min(bounds)
    assert np.std(bounds) < 0.03
