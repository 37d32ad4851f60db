"""Many trials of one release with and without a canary: the epsilon that they prove, beside the epsilon that is claimed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta

from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.releases import DPPrivateData

Floats = NDArray[np.float64]

TRIALS = 1_000_000
CONFIDENCE = 0.999
"""Of a lower bound: an honest release must not be accused by chance (see the tests for how rarely it is)."""

STANDARD_ERRORS = 7.0
LEAST_NOISE_MARGIN = 0.01
CUTS = np.arange(-24, 25) / 4
"""Thresholds on a release, in standard deviations of the noise that is claimed: fixed beforehand, so that all trials count."""


@dataclass(frozen=True)
class MechanismAudit:
    """One release's audit. claimed and lower_bound: epsilons at delta; noise_ratio: measured std over the std that is claimed."""

    kind: Kind
    sigma: float
    q: float
    delta: float
    trials: int
    claimed: float
    lower_bound: float
    noise_ratio: float

    @property
    def passed(self) -> bool:
        """Whether nothing contradicts the claim."""
        margin = max(LEAST_NOISE_MARGIN, STANDARD_ERRORS / math.sqrt(2 * self.trials))  # of a standard deviation
        return self.lower_bound <= self.claimed and abs(self.noise_ratio - 1) < margin


def audit_release(
    private: DPPrivateData, kind: Kind, claimed: float, delta: float, canary: int = 0, trials: int = TRIALS
) -> MechanismAudit:
    """Return the audit of release ``kind`` (all but "pseudo-label"), its canary the unit of that number.

    The neighbours are no unit and the canary alone, drawn with rate q in each trial; all goes through the object's own sum,
    clip, noise and denominator, at the classifier's weights. A trial is the release's coordinate along the canary's vector, which
    holds all that can be told: the others are noise alone. Nothing leaves; the object should charge no ledger.
    """
    theta = private.classifier.theta()
    of = {"gradient": private.gradient_sum, "meta": private.meta_sum, "feature": private.feature_sum}
    sums = (of | {"confusion": private.confusion_sum})[kind]
    vector = torch.cat([part.flatten() for part in sums(theta, [private.units[canary]])]).double()
    mechanism = private.settings.plan.alone().mechanisms()[kind]  # of shared noise, what this site adds

    def released(size: float) -> Floats:
        """Return the releases [trials] of a world whose canary contributes ``size``."""
        totals = torch.zeros(trials, dtype=torch.float64)
        totals[torch.from_numpy(private.noise.draw(trials, mechanism.q))] = size
        return private.release(kind, lambda _: [totals]).values[0].double().numpy()

    outside, inside = released(0.0), released(float(vector.norm()))
    std = mechanism.std / mechanism.denominator
    return MechanismAudit(
        kind,
        mechanism.sigma,
        mechanism.q,
        delta,
        trials,
        claimed,
        epsilon_lower_bound(inside, outside, delta, CUTS * std),
        float(outside.std() / std),
    )


def epsilon_lower_bound(inside: Floats, outside: Floats, delta: float, thresholds: Floats, confidence: float = CONFIDENCE) -> float:
    """Return an epsilon that holds from below with ``confidence``, from scores [n], [m] that are larger with the canary inside.

    At each threshold, Clopper-Pearson bounds of the two error rates enter the hypothesis-testing form of differential privacy
    (Kairouz et al., arXiv 1311.0776), either way round; the best of all is valid, as they share the error among them. To
    choose one threshold on half of the trials costs more: where few scores lie beyond, the best one there is a matter of luck.

    thresholds: rising; they may not come from these scores.
    """
    n_in, n_out = len(inside), len(outside)
    edges = np.concatenate([[-np.inf], thresholds, [np.inf]])
    # scores at or above each threshold
    hit, false = (np.histogram(scores, edges)[0][:0:-1].cumsum()[::-1] for scores in (inside, outside))
    alpha = (1 - confidence) / (4 * len(thresholds))  # two bounds each, two ways round
    one = _log_ratio(_lower(hit, n_in, alpha) - delta, _upper(false, n_out, alpha))
    other = _log_ratio(_lower(n_out - false, n_out, alpha) - delta, _upper(n_in - hit, n_in, alpha))
    return max(0.0, float(one.max()), float(other.max()))


def _lower(k: NDArray[np.int64], n: int, alpha: float) -> Floats:
    """Return Clopper-Pearson lower bounds of k successes in n."""
    return np.where(k > 0, beta.ppf(alpha, np.maximum(k, 1), n - k + 1), 0.0)


def _upper(k: NDArray[np.int64], n: int, alpha: float) -> Floats:
    """Return Clopper-Pearson upper bounds."""
    return np.where(k < n, beta.ppf(1 - alpha, k + 1, np.maximum(n - k, 1)), 1.0)


def _log_ratio(top: Floats, bottom: Floats) -> Floats:
    return np.log(np.maximum(top, 1e-300)) - np.log(bottom)
