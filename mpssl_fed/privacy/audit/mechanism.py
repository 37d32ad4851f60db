"""Many trials of one release with and without a canary: the epsilon that they prove, beside the epsilon that is claimed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta

from mpssl_fed.models import Params
from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.releases import DPPrivateData

THRESHOLDS = 400
NOISE_MARGIN = 0.02


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
        return self.lower_bound <= self.claimed and abs(self.noise_ratio - 1) < NOISE_MARGIN


def audit_release(
    private: DPPrivateData, kind: Kind, theta: Params, claimed: float, delta: float, canary: int = 0, trials: int = 400_000
) -> MechanismAudit:
    """Return the audit of release ``kind`` ("gradient", "meta" or "feature") at theta, its canary the unit of that number.

    The neighbours are no unit and the canary alone, drawn with rate q in each trial; all goes through the object's own sum,
    clip, noise and denominator. A trial is the release's coordinate along the canary's vector, which holds all that can be
    told: the others are noise alone. Nothing leaves; the object should charge no ledger.
    """
    sums = {"gradient": private.gradient_sum, "meta": private.meta_sum, "feature": private.feature_sum}[kind]
    vector = torch.cat([part.flatten() for part in sums(theta, [private.units[canary]])]).double()
    mechanism = private.settings.mechanism(kind)

    def released(size: float) -> NDArray[np.float64]:
        """Return the releases [trials] of a world whose canary contributes ``size``."""
        totals = torch.zeros(trials, dtype=torch.float64)
        totals[torch.from_numpy(private.noise.draw(trials, mechanism.q))] = size
        return private.release(kind, lambda _: [totals]).values[0].numpy()

    outside, inside = released(0.0), released(float(vector.norm()))
    return MechanismAudit(
        kind,
        mechanism.sigma,
        mechanism.q,
        delta,
        trials,
        claimed,
        epsilon_lower_bound(inside, outside, delta),
        float(outside.std() * mechanism.denominator / mechanism.std),
    )


def epsilon_lower_bound(inside: NDArray[np.float64], outside: NDArray[np.float64], delta: float, confidence: float = 0.95) -> float:
    """Return an epsilon that holds from below with ``confidence``, from scores that are larger with the canary inside.

    The threshold is chosen on one half of the trials; on the other half, Clopper-Pearson bounds of the two error rates enter
    the hypothesis-testing form of differential privacy (Kairouz et al., arXiv 1311.0776), either way round.
    """
    halves = [(scores[::2], scores[1::2]) for scores in (inside, outside)]
    (choose_in, use_in), (choose_out, use_out) = halves
    candidates = np.quantile(np.concatenate([choose_in, choose_out]), np.linspace(0.0005, 0.9995, THRESHOLDS))
    alpha = (1 - confidence) / 2

    def bound(inside: NDArray[np.float64], outside: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the bound at each threshold, [m]."""
        n_in, n_out = len(inside), len(outside)
        hit = n_in - np.searchsorted(np.sort(inside), thresholds)  # scores at or above the threshold
        false = n_out - np.searchsorted(np.sort(outside), thresholds)
        one = _log_ratio(_lower(hit, n_in, alpha) - delta, _upper(false, n_out, alpha))
        other = _log_ratio(_lower(n_out - false, n_out, alpha) - delta, _upper(n_in - hit, n_in, alpha))
        return np.maximum(one, other)

    best = candidates[np.argmax(bound(choose_in, choose_out, candidates))]
    return max(0.0, float(bound(use_in, use_out, np.array([best]))[0]))


def _lower(k: NDArray[np.int64], n: int, alpha: float) -> NDArray[np.float64]:
    """Return Clopper-Pearson lower bounds of k successes in n."""
    return np.where(k > 0, beta.ppf(alpha, np.maximum(k, 1), n - k + 1), 0.0)


def _upper(k: NDArray[np.int64], n: int, alpha: float) -> NDArray[np.float64]:
    """Return Clopper-Pearson upper bounds."""
    return np.where(k < n, beta.ppf(1 - alpha, k + 1, np.maximum(n - k, 1)), 1.0)


def _log_ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(top, 1e-300)) - np.log(bottom)
