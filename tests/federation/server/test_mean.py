"""The running mean has the bits of exact arithmetic, whatever order, grouping or size the numbers come in."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from mpssl_fed.federation.server import mean as module
from mpssl_fed.federation.server.mean import RunningMean

SIZE = 40


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a short vector be several blocks, the last one cut, and some replies wait for each other."""
    monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(module, "WAITING_BYTES", 3 * 4 * SIZE)


def exact(values: np.ndarray, weights: list[float]) -> list[float]:
    total = sum(Fraction(w) for w in weights)
    sums = [sum(Fraction(float(v)) * Fraction(w) for v, w in zip(column, weights, strict=True)) for column in values.T]
    return [float(one / total) for one in sums]


def taken(values: np.ndarray, weights: list[float], order: np.ndarray) -> RunningMean:
    mean = RunningMean(values.shape[1])
    for i in order:
        mean.add(values[i], weights[i])
    return mean


def cases() -> dict[str, tuple[np.ndarray, list[float]]]:
    rng = np.random.default_rng(5)

    def near(replies: int, scale: float = 0.05) -> np.ndarray:
        """Replies that lie near each other, as those of one round do, with dead and padded entries."""
        values = rng.standard_normal(SIZE) * scale + rng.standard_normal((replies, SIZE)) * scale / 50
        values[:, ::7] = 0
        return values.astype(np.float32)

    wide = (rng.standard_normal((90, SIZE)) * 10.0 ** rng.integers(-30, 4, (90, SIZE))).astype(np.float32)
    denormal = (rng.integers(-50, 50, (70, SIZE)) * 2.0**-149).astype(np.float32)
    mixed = near(60)
    mixed[::2, ::3] = denormal[:30, ::3]
    growing = near(60) * np.float32(2.0) ** np.arange(-30, 30, dtype=np.float32)[:, None]
    cancelling = np.concatenate([near(40, 900.0), -near(40, 900.0), near(3, 1e-9)])
    sizes = [float(n) for n in rng.integers(1, 30, 2000)]
    return {
        "near": (near(90), sizes[:90]),
        "equal weights": (near(90), [1.0] * 90),
        "more than one sum has room for": (near(700), sizes[:700]),
        "small after large": (near(60), [1e6] + [1.0] * 59),
        "huge weights": (near(70), [float(n) for n in rng.integers(1, 2**31, 70)]),
        "weights that are not whole": (near(70), [n / 4 for n in sizes[:70]]),
        "of every size": (wide, sizes[:90]),
        "denormal": (denormal, sizes[:70]),
        "denormal beside ordinary": (mixed, sizes[:60]),
        "growing": (growing.astype(np.float32), sizes[:60]),
        "cancelling": (cancelling, [1.0] * 83),
        "nothing but zeros": (np.zeros((70, SIZE), dtype=np.float32), sizes[:70]),
        "the largest of float32": (np.full((70, SIZE), np.finfo(np.float32).max), sizes[:70]),
        "in float64": (rng.standard_normal((70, SIZE)), [4.0, 0.5] * 35),
    }


@pytest.mark.parametrize("name", list(cases()))
def test_it_is_the_exact_mean_in_any_order_and_grouping(name: str) -> None:
    values, weights = cases()[name]
    want, rng = exact(values, weights), np.random.default_rng(6)
    orders = [np.arange(len(values)), np.arange(len(values))[::-1], rng.permutation(len(values))]
    found = [taken(values, weights, order).mean() for order in orders]
    for groups in (2, 3, 7):  # as so many workers would sum up their own
        mean = RunningMean(SIZE)
        for group in range(groups):
            part = taken(values, weights, orders[2][group::groups])
            mean.merge(part.parts(), part.total)
        found.append(mean.mean())
    assert np.allclose(found[0], want, rtol=3e-16, atol=0)
    assert all(np.array_equal(one, found[0]) for one in found)


def test_most_of_what_sites_send_is_added_as_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be the same mean, and only slower."""
    values, weights = cases()["near"]
    long_way, add = [], RunningMean._add_two_sum

    def counted(mean: RunningMean, start: int, part: np.ndarray, weight: float) -> None:
        long_way.append(start)
        add(mean, start, part, weight)

    monkeypatch.setattr(RunningMean, "_add_two_sum", counted)
    mean = taken(values, weights, np.arange(len(values)))
    mean.mean()
    assert len(long_way) < len(values)  # there are three blocks


def test_an_empty_vector_has_an_empty_mean() -> None:
    assert taken(np.zeros((3, 0), dtype=np.float32), [1.0] * 3, np.arange(3)).mean().shape == (0,)
