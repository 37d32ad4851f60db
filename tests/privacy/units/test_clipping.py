"""The clip against exact arithmetic: no finite vector gets past the bound, and contributions add up without an error."""

from __future__ import annotations

import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor

from mpssl_fed.config.federation import CLIP_RANGE
from mpssl_fed.privacy.units.clipping import AT_ONCE, GRID_BITS, MARGIN, clip_and_sum, clip_grid, unit_norms, zero_sum

LARGEST = float(np.finfo(np.float32).max)
WIDE = AT_ONCE + 70_001  # a unit so large that its tensors are not put together

float32s = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1e-45, -1e-45, 3e-39, 2.9e-23, 1e-19, 1.0, 1.8e19, 1e30, LARGEST, -LARGEST]),
)
bounds = st.one_of(st.floats(*CLIP_RANGE), st.sampled_from([*CLIP_RANGE, 1.0, 0.1]))


def square(vector: Tensor) -> Fraction:
    """The squared L2 norm, exact."""
    return sum((Fraction(float(v)) ** 2 for v in vector), Fraction(0))


def norm(vector: Tensor) -> float:
    """The L2 norm by Shewchuk's sum of float64 squares, scaled by the largest entry."""
    values = vector.double().numpy()
    largest = float(np.abs(values).max(initial=0)) or 1.0
    return largest * math.sqrt(math.fsum((values / largest) ** 2))


def contribution(vector: Tensor, bound: float) -> Tensor:
    """What one unit adds, its vector cut into two tensors."""
    parts = [vector[:1].clone()[None], vector[1:].clone()[None]] if len(vector) > 1 else [vector.clone()[None]]
    return torch.cat(clip_and_sum(parts, bound))


@settings(max_examples=250, deadline=None)
@given(st.lists(float32s, min_size=1, max_size=30), bounds)
@example([1e-30] * 20, 1e-3)
@example([LARGEST] * 30, 1e-3)
@example([LARGEST, 1e-45, 2.9e-23], 1e3)
def test_no_finite_vector_gets_past_the_bound(entries: list[float], bound: float) -> None:
    vector = torch.tensor(entries, dtype=torch.float32)
    added = contribution(vector, bound)
    assert square(added) <= Fraction(bound) ** 2
    wanted = vector.double() * min(1.0, bound / max(norm(vector), 1e-300))
    assert (added - wanted).abs().max() <= 2 * MARGIN * wanted.abs().max() + clip_grid(bound)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30), bounds, st.floats(-3e-5, 3e-5), st.integers(-60, 60))
def test_vectors_just_around_the_bound_stay_within(entries: list[float], bound: float, off: float, exponent: int) -> None:
    direction = torch.tensor([e if abs(e) > 1e-3 else 0.5 for e in entries], dtype=torch.float64)
    vector = (direction * (bound * (1 + off) / norm(direction))).float()
    assert square(contribution(vector, bound)) <= Fraction(bound) ** 2
    one = torch.tensor([math.ldexp(1.0, exponent)])  # at the bound itself, and at both of its neighbours
    for near in (one, torch.nextafter(one, one * 2), torch.nextafter(one, one * 0)):
        assert square(contribution(near, float(one))) <= Fraction(float(one)) ** 2


@pytest.mark.parametrize("bound", [1e-30, 1e-12, 1e12])
@pytest.mark.parametrize("magnitude", [1e-42, 1e-24, 1e-8, 1e8, 1e24, 1e38])
def test_the_clip_holds_outside_its_range_too(bound: float, magnitude: float) -> None:
    """What a server asked for once: a bound so small that squares of gradients vanish beside it."""
    vector = torch.tensor([magnitude, -magnitude / 3, magnitude / 7], dtype=torch.float32)
    added = contribution(vector, bound)
    assert square(added) <= Fraction(bound) ** 2
    assert float(added.norm()) >= 0.999 * min(bound, norm(vector)) - 2 * clip_grid(bound)


def random_bits(width: int, seed: int) -> Tensor:
    """Finite float32 numbers of all magnitudes, denormals among them."""
    bits = np.random.default_rng(seed).integers(0, 1 << 32, width, dtype=np.uint32)
    values = bits.view(np.float32)
    return torch.from_numpy(np.where(np.isfinite(values), values, np.float32(1e-40)))


@pytest.mark.parametrize("width", [1, 8191, 8192, 8195, WIDE])
@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-23, 1e-4, 1.0, 1e19, "bits"])
def test_norms_are_right_at_every_width_and_size(width: int, scale: float | str) -> None:
    if isinstance(scale, str):
        vector = random_bits(width, width)
    else:
        vector = (torch.randn(width, generator=torch.Generator().manual_seed(width)).double() * scale).float()
    cut = [vector[None, :1], vector[None, 1:]] if width > 1 else [vector[None]]
    assert float(unit_norms(cut)[0]) == pytest.approx(norm(vector), rel=1e-12, abs=1e-300)
    assert float(torch.cat(clip_and_sum([part.clone() for part in cut], 1.0)).norm()) <= 1


@settings(max_examples=60, deadline=None)
@given(
    units=st.integers(1, 7),
    width=st.sampled_from([1, 5, 200]),
    seed=st.integers(0, 10**6),
    bound=bounds,
    spoilt=st.sampled_from([None, math.nan, math.inf]),
)
def test_sums_are_exact_whatever_the_order_and_the_batches(
    units: int, width: int, seed: int, bound: float, spoilt: float | None
) -> None:
    """Each unit adds its own part to the last bit; one that is not finite adds zero."""
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.standard_normal((units, width)) * 10.0 ** rng.uniform(-9, 9, (units, 1))).float()
    if spoilt is not None:
        rows[0, -1] = spoilt
    own = [clip_and_sum([row[None].clone()], bound)[0] for row in rows]
    if spoilt is not None:
        assert not own[0].any()
    exact = [sum((Fraction(float(part[i])) for part in own), Fraction(0)) for i in range(width)]
    order = rng.permutation(units)
    cut = int(rng.integers(0, units))
    total = None
    for batch in (order[:cut], order[cut:]):
        if len(batch):
            total = clip_and_sum([rows[batch].clone()], bound, total)
    assert total is not None
    assert [Fraction(float(v)) for v in total[0]] == exact


def test_a_unit_within_the_bound_is_left_alone() -> None:
    values = torch.tensor([[0.375, 0.5], [3.0, 4.0]])
    assert torch.allclose(clip_and_sum([values.clone()], 0.625)[0].float(), torch.tensor([0.75, 1.0]), rtol=1e-4)
    assert torch.equal(clip_and_sum([values.clone()], 6.0)[0], values.double().sum(0))


def test_the_grid_is_public_and_finer_than_any_noise() -> None:
    for bound in (*CLIP_RANGE, 0.7, 1.0, 1.5):
        assert 2.0**-GRID_BITS * bound <= clip_grid(bound) <= 2.0 ** (1 - GRID_BITS) * bound


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("widths", [(0,), (0, 0), (0, 2), (2, 0, 1)])
def test_tensors_without_entries_change_nothing(units: int, widths: tuple[int, ...]) -> None:
    vectors = [torch.full((units, width), 0.25) for width in widths]
    assert torch.allclose(unit_norms(vectors), torch.full((units,), 0.25 * sum(widths) ** 0.5, dtype=torch.float64))
    for total, width in zip(clip_and_sum(vectors, 1.0), widths, strict=True):
        assert torch.equal(total, torch.full((width,), 0.25 * units, dtype=torch.float64))


def test_weights_may_lie_channels_last_in_memory() -> None:
    vectors = torch.randn(3, 4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    lying = torch.stack([vector.to(memory_format=torch.channels_last) for vector in vectors])
    total = [zero_sum(vectors[0].to(memory_format=torch.channels_last))]
    assert torch.equal(clip_and_sum([lying], 1.0, total)[0], clip_and_sum([vectors], 1.0)[0])
