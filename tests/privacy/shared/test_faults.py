"""The integers that a site masks: the check that honest ones pass catches each fault, planted one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mpssl_fed.models import Classifier, Params
from mpssl_fed.privacy.noise import FastNoise, SecureNoise, add_rounded
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.privacy.shared.history import Shared
from mpssl_fed.privacy.shared.noise import SharedNoise
from mpssl_fed.privacy.shared.release import shared_gradient
from tests.privacy.release_cases import classifier, clipped_sum, digits, fixed, make

HONEST = 4
SHARED: dict[str, Any] = {"sigma_gradient": 3.0, "clip_gradient": 0.7, "shared": Shared(HONEST, 1, 6)}
PUBLIC = 1e5
"""Beside a clipped sum: so large that float32, or float64 times a weight, would not hold what lies below."""


class Quiet(FastNoise):
    """No noise, and every unit is drawn."""

    def draw(self, units: int, q: float) -> NDArray[np.int64]:
        return np.arange(units)

    def add_integers(self, total: NDArray[np.int64], std: float) -> NDArray[np.int64]:
        return total.copy()


def beside(model: Classifier, size: float) -> Params:
    return {name: torch.full_like(p, size) for name, p in model.theta().items()}


def site(noise: Any, images: int = 0) -> DPPrivateData:
    return make(digits(1).take(range(images)), noise=noise, **SHARED)


def asked(private: DPPrivateData, size: float = PUBLIC) -> NDArray[np.int64]:
    return shared_gradient(private, private.classifier.theta(), beside(private.classifier, size))


def check_noise() -> None:
    """Of sites without images the honest ones add what the plan says together, at every digit of their integers."""
    parts = [asked(site(fixed(f"integers {n}"))) for n in range(HONEST)]
    one, sharing, size = parts[0], SharedNoise(3.0, 0.7, HONEST), len(parts[0])
    assert one.dtype == np.int64
    public = asked(site(Quiet()))
    assert len(set(public.tolist())) == 1
    assert abs(public[0]) > 2**40
    noises = [(part - public).astype(float) for part in parts]
    margin = 7 / math.sqrt(2 * size)
    sensitivity = 0.7 / sharing.grid + math.sqrt(size)
    for noise in noises:
        assert abs(noise.std() / (3.0 * sensitivity / math.sqrt(HONEST)) - 1) < margin
        assert abs(noise.mean()) < 7 * noise.std() / math.sqrt(size)
    assert abs(np.sum(noises, axis=0).std() / (3.0 * sensitivity) - 1) < margin
    for bit in range(20):  # of noise of 2^22 units or more, each is as good as a coin
        ones = int(((parts[1] >> bit) & 1).sum())
        assert abs(ones - size / 2) < 7 * math.sqrt(size) / 2, f"bit {bit}"


def check_sums() -> None:
    """Without noise they are the clipped sum and the public gradient, each rounded for itself."""
    private = site(Quiet(), images=1)
    sharing = SharedNoise(3.0, 0.7, HONEST)
    theta, sums = private.classifier.theta(), clipped_sum(private, "gradient", [0])
    sizes = [p.numel() for p in theta.values()]
    ordered = dict(zip(theta, torch.split(sums, sizes), strict=True))
    total = np.concatenate([ordered[name].numpy() for name in sorted(theta)])
    denominator = private.settings.mechanism("gradient").denominator
    for size in (0.0, PUBLIC, 2**51 * sharing.grid / denominator):
        public = np.rint(np.float64(torch.tensor(size).item()) * denominator / sharing.grid).astype(np.int64)
        assert np.array_equal(asked(private, size), np.rint(total / sharing.grid).astype(np.int64) + public)


def check() -> None:
    check_noise()
    check_sums()


def test_honest_integers_pass() -> None:
    check()


Part = Callable[..., NDArray[np.int64]]
HONEST_PART: Part = SharedNoise.part


def forgotten(self: SharedNoise, total: Any, noise: Any, public: Any = None) -> NDArray[np.int64]:
    return HONEST_PART(self, total, Quiet(), public)


def parted_by_sites(self: SharedNoise, parameters: int) -> float:
    return self.sigma * (self.clip / self.grid + math.sqrt(parameters)) / self.honest


def without_rounding(self: SharedNoise, parameters: int) -> float:
    """The noise of a sum that nobody rounds, of many parameters."""
    return self.sigma * self.clip / self.grid / math.sqrt(self.honest) * 0.97


def coarser(self: SharedNoise, total: Any, noise: Any, public: Any = None) -> NDArray[np.int64]:
    """Rounded a second time, to four units."""
    return HONEST_PART(self, total, noise, public) // 4 * 4


def by_float32(self: SharedNoise, total: Any, noise: Any, public: Any = None) -> NDArray[np.int64]:
    return HONEST_PART(self, total, noise, public).astype(np.float32).astype(np.int64)


def clipped_after(self: SharedNoise, total: Any, noise: Any, public: Any = None) -> NDArray[np.int64]:
    whole = HONEST_PART(self, total, noise, public)
    middle = int(np.median(whole))
    return np.clip(whole, middle - 2**22, middle + 2**22)


def together(self: SharedNoise, total: Any, noise: Any, public: Any = None) -> NDArray[np.int64]:
    """The public gradient added before the sum is rounded."""
    return HONEST_PART(self, total if public is None else total + public, noise)


def of_one_key(self: SecureNoise, n: int) -> NDArray[np.float64]:
    """The same noise at each site: theirs adds up to more, and of any two it cancels."""
    return np.random.default_rng(0).standard_normal(n)


def of_even_steps(total: Any, normals: Any, std: float) -> NDArray[np.int64]:
    """Noise on a grid of its own, which leaves the lowest digit of the sum bare."""
    return add_rounded(total, 2 * np.rint(std * normals / 2) / std, std)


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "noise forgotten": (SharedNoise, "part", forgotten),
    "noise parted by sites": (SharedNoise, "std", parted_by_sites),
    "noise too small for what is rounded": (SharedNoise, "std", without_rounding),
    "rounded again after the noise": (SharedNoise, "part", coarser),
    "float32 after the noise": (SharedNoise, "part", by_float32),
    "clipped after the noise": (SharedNoise, "part", clipped_after),
    "public gradient before the rounding": (SharedNoise, "part", together),
    "one key for all": (SecureNoise, "normals", of_one_key),
    "noise on a grid of its own": ("mpssl_fed.privacy.noise", "add_rounded", of_even_steps),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, planted = FAULTS[fault]
    if isinstance(where, str):
        monkeypatch.setattr(f"{where}.{name}", planted)
    else:
        monkeypatch.setattr(where, name, planted)
    with pytest.raises(AssertionError):
        check()


def test_the_model_is_large_enough_to_tell() -> None:
    assert sum(p.numel() for p in classifier().theta().values()) > 50_000
