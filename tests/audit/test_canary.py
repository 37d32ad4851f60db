"""Whole runs with canaries: an honest one stays below its epsilon, a planted fault goes above, an exact read far above.

The noise is that of real runs under fixed entropy. Under fresh entropy, at epsilon 1, delta 1e-5 and all guesses' 95 %, an honest
run is accused with probability 9e-4 by 2,000 canaries, 2e-6 by 10,000 and 8e-9 by 20,000; half the noise is missed with
probability 2e-4 by 20,000 and 4e-12 by 60,000, a missing clip with 2e-28 by 10,000 (binomial tails at the mean hit rates).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from mpssl_fed import config as configs
from mpssl_fed.audit.canary import CanaryAudit, audit_config, audit_run
from mpssl_fed.generators import load_generator
from mpssl_fed.generators.base import Generator
from mpssl_fed.method.parts import Parts
from mpssl_fed.privacy.noise import FastNoise, SecureNoise
from mpssl_fed.privacy.units import clipping
from tests.privacy.release_cases import Entropy, classifier, digits, fixed, unclipped

LABELLED_STEP = "privacy={scope: labelled-step, epsilon: 1, public_size: 1000}"


@lru_cache
def generator() -> Generator:
    return load_generator("glyphs-digits")


def audit(m: int, *overrides: str, noise: Any = None) -> CanaryAudit:
    base = {"method": {"name": "mp-ssl", "batch": 4, "lmo_batch": 4}}
    config = audit_config(configs.from_mapping(configs.override(base, overrides)))
    return audit_run(config, Parts(digits(20), classifier(), generator(), False), m, noise=noise or fixed("canaries"))


class HalfNoise(SecureNoise):
    """Adds half the noise that is charged."""

    def add(self, total: np.ndarray, std: float) -> np.ndarray:
        return super().add(total, std / 2)


def test_an_honest_run_stays_below_its_claim() -> None:
    found = audit(20_000)
    assert found.claimed == pytest.approx(1.0, abs=0.01)
    assert set(found.reads) == {"gradient", "meta", "feature"}
    assert found.passed, found
    assert found.lower_bound > 0.25, "the audit has no power"


def test_fast_noise_stays_below_its_claim() -> None:
    found = audit(20_000, "method={name: base}", noise=FastNoise())
    assert set(found.reads) == {"gradient"}
    assert found.passed, found


@pytest.mark.parametrize("method", ["name: base", "name: mp-ssl, batch: 4, lmo_batch: 4"])
def test_a_missing_clip_is_caught(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(clipping, "clip_and_sum", unclipped)
    found = audit(10_000, f"method={{{method}}}")
    assert found.lower_bound > found.claimed
    assert not found.passed


def test_half_the_noise_is_caught() -> None:
    found = audit(60_000, "method={name: base}", noise=HalfNoise(Entropy("half")))
    assert found.lower_bound > found.claimed, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_half_the_noise_of_all_three_releases_is_caught(seed: int) -> None:
    assert audit(60_000, noise=HalfNoise(Entropy(f"half {seed}"))).lower_bound > 1.05
    honest = audit(60_000, noise=fixed(f"whole {seed}"))
    assert 0.35 < honest.lower_bound < honest.claimed


def test_labelled_step_leaks_what_lmo_reads_and_says_so() -> None:
    """(a) is within its claim; v and the gap, read exactly, are far beyond: the epsilon of that scope does not cover them."""
    found = audit(2000, LABELLED_STEP)
    assert found.reads["gradient"] <= found.claimed
    assert found.reads["meta"] > found.claimed
    assert found.reads["feature"] > found.claimed
    assert found.lower_bound > 2
    assert not found.passed


def test_labelled_step_is_honest_where_the_method_reads_nothing_else() -> None:
    found = audit(10_000, LABELLED_STEP, "method={name: base}")
    assert set(found.reads) == {"gradient"}
    assert found.passed, found
