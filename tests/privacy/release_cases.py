"""Real digits, noise sources that tests can see through, and the checks that every honest release passes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpssl_fed.data.datasets import Dataset, Images, load_dataset
from mpssl_fed.models import Architecture, Classifier, build_classifier
from mpssl_fed.privacy.mechanism import Kind
from mpssl_fed.privacy.noise import SecureNoise, Tape
from mpssl_fed.privacy.plan import Plan
from mpssl_fed.privacy.releases import DPPrivateData, ReleasedImages, ReleaseSettings, secret_rows
from mpssl_fed.privacy.units.per_unit import Speed

SIZE = 32  # of mnist-5k
KINDS: tuple[Kind, ...] = ("gradient", "meta", "feature")
SETTINGS = Plan(
    scope="end-to-end",
    unit="image",
    epsilon=1.0,
    delta=1e-5,
    rounds=1,
    local_steps=1,
    lmo_every=1,
    sigma_gradient=1.5,
    sigma_meta=2.5,
    sigma_feature=4.0,
    clip_gradient=0.7,
    clip_meta=0.3,
    clip_feature=1.1,
    q=0.2,
    public_size=100,
)
Make = Callable[..., DPPrivateData]


@lru_cache
def dataset() -> Dataset:
    return load_dataset("mnist-5k")


@lru_cache
def order() -> NDArray[np.int64]:
    return np.random.default_rng(7).permutation(len(dataset().train))


def digits(n: int, start: int = 0) -> Images:
    """Return n digits of all classes, other ones from another ``start``."""
    return dataset().train.take(order()[start : start + n])


def middle(images: Images, size: int) -> Images:
    """Return the middle ``size`` x ``size`` pixels of each image."""
    edge = (SIZE - size) // 2
    return replace(images, x=images.x[..., edge : edge + size, edge : edge + size].contiguous())


def classifier(name: str = "small-cnn", size: int = SIZE, seed: int = 0, **options: Any) -> Classifier:
    return build_classifier(Architecture(name, dataset().classes, 1, size, **options), seed=seed)


class Entropy:
    """Bytes that differ at each call and are the same in each run of the tests; ``calls``: how many were asked for, ``keys``: them.

    For what a test measures by chance: a bound that honest noise may cross once in a thousand runs may not be up to chance.
    """

    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.calls: list[int] = []
        self.keys: list[bytes] = []

    def __call__(self, n: int) -> bytes:
        key = hashlib.shake_256(f"{self.seed}/{len(self.calls)}".encode()).digest(n)
        self.calls.append(n)
        self.keys.append(key)
        return key


def fixed(seed: str) -> SecureNoise:
    """Return the noise of real releases under :class:`Entropy`."""
    return SecureNoise(Entropy(seed))


class Still:
    """No noise. Draws every unit, or what ``batches`` says, one draw after the other."""

    secure = False

    def __init__(self, batches: Sequence[Sequence[int]] | None = None) -> None:
        self._batches = None if batches is None else iter(batches)

    def draw(self, units: int, q: float) -> NDArray[np.int64]:
        return np.arange(units) if self._batches is None else np.asarray(next(self._batches), dtype=np.int64)

    def add(self, total: NDArray[np.float64], std: float) -> NDArray[np.float64]:
        return total.copy()


class Watched(Tape):
    """A recording tape that remembers draws too."""

    def __init__(self) -> None:
        super().__init__(SecureNoise())
        self.draws: list[tuple[int, ...]] = []

    def draw(self, units: int, q: float) -> NDArray[np.int64]:
        drawn = super().draw(units, q)
        self.draws.append(tuple(drawn.tolist()))
        return drawn


def identity(x: Tensor, rows: Tensor | None = None) -> Tensor:
    return x


def make(
    images: Images,
    noise: Any = None,
    model: Classifier | None = None,
    cls: type[DPPrivateData] = DPPrivateData,
    charge: Any = lambda kind, sigma, q: None,
    augment: Any = identity,
    rows: Callable[[int], Tensor] = secret_rows,
    weights: Sequence[float] | None = None,
    **changes: Any,
) -> DPPrivateData:
    """Return releases by SETTINGS; ``changes`` of a plan's fields, of where a release lives, or of speed alone."""
    if "per_class" in changes:
        changes["per_class_gap"] = changes.pop("per_class")
    lives = {key: changes.pop(key) for key in ("meta_params", "count_floor", "loss_weights") if key in changes}
    fast = {"max_physical_batch": 8} | {key: changes.pop(key) for key in ("max_physical_batch", "backend") if key in changes}
    settings = ReleaseSettings(replace(SETTINGS, **changes), class_weights=weights, **lives)
    seen = ReleasedImages(images, augment, identity, rows)
    return cls(model or classifier(), seen, settings, charge, noise or SecureNoise(), Speed(**fast))


def ask(private: DPPrivateData, kind: Kind) -> Any:
    theta = private.classifier.theta()
    return {"gradient": private.supervised_gradient, "meta": private.validation_gradient, "feature": private.mean_feature}[kind](
        theta
    )


def clipped_sum(private: DPPrivateData, kind: Kind, units: Sequence[int]) -> Tensor:
    """Return the flat private sum behind a release, for the given units."""
    theta, batch = private.classifier.theta(), [private.units[i] for i in units]
    found = {"gradient": private.gradient_sum, "meta": private.meta_sum, "feature": private.feature_sum}[kind](theta, batch)
    return torch.cat([part.flatten() for part in found]).double()


def answer(private: DPPrivateData, kind: Kind) -> Tensor:
    """Return what one release answered, flat; of (c), the sum and count before their quotient."""
    total = {"gradient": private.gradient_sum, "meta": private.meta_sum, "feature": private.feature_sum}[kind]
    released = private.release(kind, lambda batch: total(private.classifier.theta(), batch))
    return torch.cat([part.flatten() for part in released.values]).double()


def unclipped(vectors: Sequence[Tensor], bound: float, into: list[Tensor] | None = None) -> list[Tensor]:
    """What stands for ``clip_and_sum`` where a test plants a missing clip."""
    sums = [vector.double().sum(0) for vector in vectors]
    return sums if into is None else [one + other for one, other in zip(into, sums, strict=True)]


def check_noise(build: Make) -> None:
    """A site without images releases noise alone: sigma x clip over q x public_size, whatever the kind."""
    private = build(digits(1).take([]))
    for kind in KINDS:
        noise = torch.cat([answer(private, kind) for _ in range(max(1, 60 if kind == "feature" else 20 if kind == "meta" else 1))])
        mechanism = private.settings.mechanism(kind)
        expected = getattr(SETTINGS, f"sigma_{kind}") * getattr(SETTINGS, f"clip_{kind}") / (SETTINGS.q * SETTINGS.public_size)
        margin = 7 / math.sqrt(2 * len(noise))  # seven standard errors of a standard deviation: 3e-12
        assert abs(float(noise.std()) / expected - 1) < margin, f"{kind}: std {float(noise.std())}, want {expected}"
        assert abs(float(noise.mean())) < 7 * expected / math.sqrt(len(noise))
        assert mechanism.std / mechanism.denominator == expected


def check_clip(build: Make) -> None:
    """One unit moves each sum by its clip bound at most, and one with a larger vector by just that."""
    images = digits(3)
    private = build(images, clip_gradient=0.01, clip_meta=1e-3, clip_feature=0.1)
    for kind in KINDS:
        bound = private.settings.clip(kind)
        for unit in range(3):
            norm = float(clipped_sum(private, kind, [unit]).norm())
            assert norm <= bound, f"{kind}: a unit contributes {norm}, the bound is {bound}"
            assert norm > 0.999 * bound


def check_denominator(build: Make) -> None:
    """The sum is divided by q x public_size: the same whatever the number of images, and how many were drawn."""
    one, three = digits(1), digits(1).take([0, 0, 0])
    for kind in KINDS:
        alone = answer(build(one, noise=Still([[0]])), kind)
        thrice = answer(build(three, noise=Still([[0, 1, 2]])), kind)
        wide = answer(build(one, noise=Still([[0]]), public_size=10 * SETTINGS.public_size), kind)
        assert torch.allclose(thrice, 3 * alone, rtol=1e-4, atol=1e-7), f"{kind}: three images count other than three"
        assert torch.allclose(10 * wide, alone, rtol=1e-4, atol=1e-7), f"{kind}: public_size is not the denominator"


def check_own_batches(build: Make) -> None:
    """Each release draws for itself, from all units."""
    noise = Watched()
    private = build(digits(80), noise=noise)  # two draws of 80 at q 0.2 are the same once in 10^13
    for kind in KINDS:
        ask(private, kind)
    assert len(noise.draws) == len(noise.releases) == 3, f"{len(noise.draws)} draws for {len(noise.releases)} releases"
    assert len(set(noise.draws)) == 3, "releases share a batch"


def check_secret_draws(build: Make) -> None:
    """Two runs of one seed draw differently."""
    draws = []
    for _ in range(2):
        noise = Watched()
        private = build(digits(60), noise=noise)
        private.begin_round(torch.Generator().manual_seed(3), torch.Generator().manual_seed(4))
        ask(private, "feature")
        draws.append(noise.draws)
    assert draws[0] != draws[1], "the draw follows from the seed"


CHECKS = [check_noise, check_clip, check_denominator, check_own_batches, check_secret_draws]
