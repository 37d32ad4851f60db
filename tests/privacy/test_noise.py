from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mpssl_fed.privacy.noise import FastNoise, Noise, SecureNoise, Tape, add_and_round, grid, noise_source
from tests.privacy.release_cases import Entropy, fixed

SOURCES = [SecureNoise, FastNoise]


def test_normals_follow_the_normal_law() -> None:
    x = fixed("normals").normals(1_000_000)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    assert abs(x.mean()) < 5 / 1e3
    assert abs(x.std() - 1) < 5 / math.sqrt(2e6)
    assert abs(stats.kurtosis(x)) < 5 * math.sqrt(24 / 1e6)
    for tail in (3.0, 4.0):
        expected = 1e6 * 2 * stats.norm.sf(tail)
        assert abs((np.abs(x) > tail).sum() - expected) < 5 * math.sqrt(expected)


def test_normals_are_independent_along_the_stream_within_pairs_and_between_releases() -> None:
    noise = fixed("independence")
    x, y = noise.normals(1 << 18), noise.normals(1 << 18)
    bound = 5 / math.sqrt(1 << 18)
    pairs = x.reshape(-1, 2, 1 << 15)
    for a, b in ((x[:-1], x[1:]), (x, y), (pairs[:, 0].ravel(), pairs[:, 1].ravel())):
        assert abs(np.corrcoef(a, b)[0, 1]) < 2 * bound
        assert abs(np.corrcoef(a**2, b**2)[0, 1]) < 2 * bound


def test_the_smallest_word_gives_a_finite_tail_and_not_infinity() -> None:
    class Words:
        def __init__(self, word: int) -> None:
            self.word = word

        def update_into(self, data: bytes, buffer: memoryview) -> int:
            np.frombuffer(buffer, dtype="<i8")[:] = self.word
            return len(data)

    for word, largest in ((0, 9.5), (-1, 9.5), (2**63 - 1, 1e-9), (-(2**63), 1e-9)):
        noise = SecureNoise()
        noise._keystream = lambda word=word: Words(word)  # type: ignore[method-assign]
        x = noise.normals(8)
        assert np.isfinite(x).all()
        assert np.abs(x).max() <= largest
    assert math.sqrt(2 * 64 * math.log(2)) < 9.5


@pytest.mark.parametrize("n", [0, 1, 2, (1 << 16) - 1, 1 << 16, (1 << 16) + 1])
def test_every_size_is_filled(n: int) -> None:
    x = fixed("normals").normals(n)
    assert x.shape == (n,)
    assert x.dtype == np.float64
    assert (x != 0).all()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("std", [1e-3, 0.7, 40.0])
def test_a_release_has_the_std_it_claims_and_lies_on_the_grid(source: type[Noise], std: float) -> None:
    total = np.full((400, 500), 0.3)
    noised = source().add(total, std)
    assert abs((noised - total).std() / std - 1) < 7 / math.sqrt(2 * total.size)
    assert abs((noised - total).mean()) < 7 * std / math.sqrt(total.size)
    np.testing.assert_array_equal(noised, np.rint(noised / grid(std)) * grid(std))
    assert noised.shape == total.shape


@settings(deadline=None)
@given(st.floats(1e-12, 1e12))
def test_the_grid_is_a_power_of_two_below_a_millionth_of_the_noise(std: float) -> None:
    step = grid(std)
    assert math.frexp(step)[0] == 0.5
    assert std * 2.0**-21 < step <= std * 2.0**-20
    x = np.float64(round(8 * std / step) * step)
    assert np.float64(np.float32(x)) == x


def test_each_release_and_each_draw_takes_32_fresh_bytes_and_no_key_twice() -> None:
    entropy = Entropy("keys")
    noise = SecureNoise(entropy)
    for _ in range(20):
        noise.draw(100, 0.1)
        noise.add(np.zeros(200_000), 1.0)
    assert entropy.calls == [32] * 40
    assert len(set(entropy.keys)) == 40


def test_all_256_bits_of_the_key_reach_the_noise() -> None:
    base = bytearray(32)
    seen = set()
    for bit in range(256):
        key = bytearray(base)
        key[bit // 8] ^= 1 << bit % 8
        seen.add(SecureNoise(lambda n, key=key: bytes(key)).normals(2).tobytes())
    assert len(seen) == 256


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="4 bytes, want 32"):
        SecureNoise(lambda n: b"seed").normals(1)


@pytest.mark.parametrize("source", SOURCES)
def test_two_releases_of_one_sum_differ(source: type[Noise]) -> None:
    noise = source()
    same = noise.add(np.zeros(50), 1.0) == noise.add(np.zeros(50), 1.0)
    assert same.mean() < 0.1  # on one point of the grid once in four million times


def test_the_noise_does_not_depend_on_numpy_or_torch_seeds() -> None:
    import torch

    drawn = []
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        drawn.append((SecureNoise().normals(4).tobytes(), FastNoise().add(np.zeros(4), 1.0).tobytes()))
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


@pytest.mark.parametrize("source", SOURCES)
def test_a_poisson_draw_takes_each_unit_with_probability_q_on_its_own(source: type[Noise]) -> None:
    noise, q, units, draws = source(), 0.1, 200, 2000
    counts, sizes, together = Counter(), [], 0
    for _ in range(draws):
        chosen = noise.draw(units, q)
        sizes.append(len(chosen))
        counts.update(chosen.tolist())
        together += {0, 1} <= set(chosen.tolist())

    def rarely_outside(n: int, p: float) -> tuple[float, float]:
        """Return what a binomial number lies within, but for one in 10^10."""
        return tuple(stats.binom.ppf([5e-11, 1 - 5e-11], n, p))

    low, high = rarely_outside(units * draws, q)
    assert low <= sum(sizes) <= high
    assert abs(np.var(sizes) / (units * q * (1 - q)) - 1) < 7.5 * math.sqrt(2 / draws)
    low, high = rarely_outside(draws, q)
    assert all(low <= counts[i] <= high for i in range(units))
    low, high = rarely_outside(draws, q * q)
    assert low <= together <= high


@given(st.integers(0, 300), st.floats(1e-9, 1.0))
@settings(max_examples=60, deadline=None)
def test_a_draw_holds_sorted_indices_within_range(units: int, q: float) -> None:
    for noise in (SecureNoise(), FastNoise()):
        chosen = noise.draw(units, q)
        assert chosen.dtype == np.int64
        assert ((chosen >= 0) & (chosen < units)).all()
        assert (np.diff(chosen) > 0).all()


def test_rate_one_takes_all_and_no_rate_outside_is_accepted() -> None:
    for noise in (SecureNoise(), FastNoise()):
        np.testing.assert_array_equal(noise.draw(7, 1.0), np.arange(7))
        for q in (0.0, -0.1, 1.1, math.nan):
            with pytest.raises(ValueError, match="0 < q <= 1"):
                noise.draw(7, q)


def test_a_draw_has_64_bit_precision() -> None:
    words = {}

    class Spy(SecureNoise):
        def _keystream(self):
            class Fixed:
                def update_into(self, data: bytes, buffer: memoryview) -> int:
                    np.frombuffer(buffer, dtype="<u8")[:] = [2**40 - 1, 2**40, 2**40 + 1]
                    return len(data)

            words["asked"] = True
            return Fixed()

    np.testing.assert_array_equal(Spy().draw(3, 2.0**-24), [0])
    assert words["asked"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("source", SOURCES)
def test_a_sum_that_is_not_finite_is_refused(source: type[Noise], bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        source().add(np.array([0.0, bad]), 1.0)


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_a_release_without_noise_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match="noise std"):
        add_and_round(np.zeros(2), np.zeros(2), std)


def test_sums_in_float32_are_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        SecureNoise().add(np.zeros(2, dtype=np.float32), 1.0)  # type: ignore[arg-type]


def test_a_tape_replays_releases_whatever_the_sum_and_checks_what_is_public() -> None:
    tape = Tape()
    first, second = tape.add(np.zeros(5), 1.0), tape.add(np.ones(3), 2.0)
    replay = Tape(releases=tape.releases)
    np.testing.assert_array_equal(replay.add(np.full(5, 9.0), 1.0), first)
    with pytest.raises(ValueError, match="std 3"):
        replay.add(np.zeros(3), 3.0)
    np.testing.assert_array_equal(replay.add(np.zeros(3), 2.0), second)
    with pytest.raises(ValueError, match="one more"):
        replay.add(np.zeros(3), 2.0)
    assert len(tape.draw(10, 1.0)) == 10


def test_names_and_security() -> None:
    assert noise_source("secure").secure
    assert not noise_source("fast").secure
    assert not Tape().secure
