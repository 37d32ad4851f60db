"""The one-run bounds: equal to an outside implementation's, right in most runs of known mechanisms, nothing from noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

from mpssl_fed.audit.one_run import (
    contradicts_gaussian,
    correct_guesses,
    epsilon_one_run,
    gaussian_epsilon,
    mu_one_run,
    p_value,
)
from mpssl_fed.privacy import accounting

DELTA = 1e-5

JAX_PRIVACY = {
    (1000, 1000, 560, 1e-5): (0.1343, 0.2688),
    (1000, 200, 150, 1e-5): (0.8200, 1.2969),
    (5000, 1000, 600, 1e-5): (0.2963, 0.4320),
    (20000, 4000, 2300, 1e-5): (0.2480, 0.3434),
    (20000, 1000, 700, 1e-6): (0.7315, 1.0504),
    (400, 100, 99, 1e-4): (2.9521, 4.7003),
}
"""(canaries, guesses, right ones, delta) -> epsilon by arXiv 2305.08846 and by arXiv 2410.22235 at significance 0.05, computed
once with jax_privacy 2.0.0 (auditing.py: _epsilon_one_run and _epsilon_one_run_fdp)."""


@pytest.mark.parametrize("case", JAX_PRIVACY)
def test_bounds_are_those_of_jax_privacy(case: tuple[int, int, int, float]) -> None:
    m, guesses, right, delta = case
    steinke, mahloujifar = JAX_PRIVACY[case]
    found = brentq(lambda epsilon: p_value(epsilon, m, guesses, right, delta) - 0.05, 1e-6, 20)
    assert found == pytest.approx(steinke, abs=1e-3)
    mus = np.arange(0.0005, 6, 0.001)
    mu = max((mu for mu in mus if contradicts_gaussian(mu, m, guesses, right, 0.05)), default=0.0)
    assert gaussian_epsilon(mu, delta) == pytest.approx(mahloujifar, abs=0.01)


def run(mu: float, m: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    included = rng.random(m) < 0.5
    return rng.standard_normal(m) + mu * included, included


def test_a_gaussian_mechanism_is_rarely_over_its_epsilon_and_never_far_below() -> None:
    rng, mu = np.random.default_rng(3), 0.5
    exact = gaussian_epsilon(mu, DELTA)
    runs = [run(mu, 2000, rng) for _ in range(60)]
    bounds = [gaussian_epsilon(mu_one_run(*one), DELTA) for one in runs]
    looser = [epsilon_one_run(*one, DELTA) for one in runs]
    assert sum(bound > exact for bound in bounds) <= 3, "95 % confidence is not kept"
    assert sum(bound > exact for bound in looser) <= 3
    assert np.mean(bounds) > 0.4 * exact
    assert np.mean(bounds) > np.mean(looser)


def test_scores_without_a_signal_prove_nothing() -> None:
    rng = np.random.default_rng(5)
    nulls = [run(0.0, 2000, rng) for _ in range(40)]
    assert sum(mu_one_run(*null) > 0 for null in nulls) <= 3
    assert sum(epsilon_one_run(*null, DELTA) > 0 for null in nulls) <= 3


def test_who_is_certain_is_guessed_first() -> None:
    included = np.array([True, True, False, False, True, False])
    scores = np.array([5.0, 4.0, -5.0, -4.0, -0.1, 0.1])  # wrong where it is unsure
    assert correct_guesses(scores, included, 4) == 4
    assert correct_guesses(scores, included, 6) == 4


@pytest.mark.parametrize(("sigma", "n"), [(1.0, 1), (12.0, 10), (3.0, 4)])
def test_epsilon_of_mu_is_that_of_composed_gaussians(sigma: float, n: int) -> None:
    assert gaussian_epsilon(np.sqrt(n) / sigma, DELTA) == pytest.approx(accounting.epsilon({(sigma, 1.0): n}, DELTA), abs=0.02)
