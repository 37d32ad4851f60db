"""Audits of noise that sites share: what a site adds is held against the part that it is charged by, and planted faults show.

The honest sums have 16 sites: a fault in how the noise is parted, which one site alone would not show, is a large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from mpssl_fed import config as configs
from mpssl_fed.audit.audited import Audited
from mpssl_fed.audit.canary import CanaryAudit, audit_config, audit_run
from mpssl_fed.audit.mechanism import MechanismAudit, audit_release
from mpssl_fed.audit.release_sections import mechanism
from mpssl_fed.config import Config
from mpssl_fed.generators import load_generator
from mpssl_fed.method.parts import Parts
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.shared.history import Shared
from mpssl_fed.privacy.shared.noise import SharedNoise
from tests.privacy.release_cases import classifier, digits, fixed, make

DELTA, TRIALS = 1e-5, 200_000
WHO = Shared(16, 2, 20)


@lru_cache
def shared() -> Config:
    return configs.from_mapping(
        {
            "method": {"name": "base"},
            "optim": {"name": "sgd", "weight_decay": 0},
            "federation": {"sites": 20, "local_steps": 1, "aggregation": "secure", "secure": {"min_sites": 18, "colluding": 2}},
            "privacy": {"trust": "sum", "epsilon": 1, "public_size": 100, "sample_rate": 0.1},
        }
    )


def audit(seed: str) -> MechanismAudit:
    """Audit a sum's part at sigma 2 for a site that is alone honest, on one digit whose vector is longer than its clip bound."""
    private = make(digits(1), noise=fixed(seed), sigma_gradient=8.0, clip_gradient=0.01, q=1.0, shared=WHO)
    private.audited = True
    return audit_release(private, "gradient", accounting.epsilon({(2.0, 1.0, WHO._replace(honest=1)): 1}, DELTA), DELTA, 0, TRIALS)


def forgotten(self: SharedNoise, total: Any, noise: Any, public: Any = None) -> Any:
    return self.integers(total)


def parted_by_sites(self: SharedNoise, parameters: int) -> float:
    """As if each of n sites had to add an nth of the standard deviation, not of the variance."""
    return self.sigma * (self.clip / self.grid + math.sqrt(parameters)) / self.honest


def counted_twice(self: SharedNoise, total: Any, noise: Any, public: Any = None) -> Any:
    """The noise of one draw for two sites: the sum carries less than it says."""
    return self.integers(total) + (noise.add_integers(self.integers(0 * total), self.std(total.size)) >> 1)


def rounded_again(self: SharedNoise, total: Any, noise: Any, public: Any = None) -> Any:
    """Rounded after the noise, to a grid of the size of s."""
    noised = noise.add_integers(self.integers(total), self.std(total.size))
    return noised // 2**22 * 2**22


FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "forgotten": ("part", forgotten),
    "parted-by-sites": ("std", parted_by_sites),
    "counted-twice": ("part", counted_twice),
    "rounded-again": ("part", rounded_again),
}


def test_an_honest_part_passes() -> None:
    found = audit("an honest part")
    assert found.passed
    assert found.lower_bound > 0.4 * found.claimed, "the audit has no power"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_integers_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedNoise, *FAULTS[fault])
    found = audit(fault)
    assert not found.passed
    assert fault == "rounded-again" or found.lower_bound > found.claimed


def test_the_section_of_a_run_takes_its_own_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mpssl-fed audit` does: not the plan of a site alone, to whose noise another number of sites is all the same."""
    asked = Audited(shared(), 0, own=digits(3), trials=20_000)
    assert [line.contradicts for line in mechanism(asked).lines] == [False]
    monkeypatch.setattr(SharedNoise, "std", parted_by_sites)
    assert [line.contradicts for line in mechanism(asked).lines] == [True]


def canaries(m: int = 10_000) -> CanaryAudit:
    return audit_run(
        audit_config(shared(), steps=4), Parts(digits(20), classifier(), None, False), m, noise=fixed("shared canaries")
    )


def test_canaries_at_one_honest_site_of_many_hold_the_bound_of_its_own_part() -> None:
    found = canaries()
    assert found.claimed > 3  # the sum's is 1
    assert found.passed, found


def test_canaries_catch_noise_that_is_parted_by_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SharedNoise, "std", parted_by_sites)
    found = canaries()
    assert not found.passed, found


def test_canaries_in_all_reads_hold_the_bound_where_latents_learn_beside_it() -> None:
    config = audit_config(
        configs.from_mapping(configs.override(shared().dump(), ["method={name: mp-ssl, batch: 4, lmo_batch: 4}"])), steps=2
    )
    site = Parts(digits(20), classifier(), load_generator("glyphs-digits"), False)
    found = audit_run(config, site, 2000, noise=fixed("shared canaries and latents"))
    assert set(found.reads) == {"gradient", "meta", "feature"}
    assert found.passed, found


def test_no_learner_of_a_site_sees_its_own_part() -> None:
    private = make(digits(1), sigma_gradient=8.0, shared=WHO)
    with pytest.raises(RuntimeError, match="in a sum alone"):
        private.supervised_gradient(private.classifier.theta())
    assert np.isfinite(private.settings.plan.alone().sigma_gradient)
