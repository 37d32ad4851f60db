"""Faults that were found in other libraries, planted one at a time: the check that honest releases pass catches each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from mpssl_fed.data.augment import COLUMNS
from mpssl_fed.privacy.build import labelled_view
from mpssl_fed.privacy.mechanism import Answer, Kind
from mpssl_fed.privacy.releases import DPPrivateData, secret_rows
from mpssl_fed.privacy.units import clipping
from tests.privacy.release_cases import (
    CHECKS,
    SIZE,
    Make,
    Still,
    check_clip,
    check_denominator,
    check_noise,
    check_own_batches,
    check_secret_draws,
    clipped_sum,
    digits,
    make,
    unclipped,
)

Total = Callable[[Sequence[Tensor]], list[Tensor]]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_honest_releases_pass(check: Callable[[Make], None]) -> None:
    check(make)


class HalfNoise(DPPrivateData):
    """Adds half the noise it charges."""

    def release(self, kind: Kind, total: Total) -> Answer:
        whole = self.noise

        class Halved:
            secure = False
            draw = staticmethod(whole.draw)

            @staticmethod
            def add(sums: np.ndarray, std: float) -> np.ndarray:
                return whole.add(sums, std / 2)

        self.noise = Halved()
        try:
            return super().release(kind, total)
        finally:
            self.noise = whole


class OneBatch(DPPrivateData):
    """Draws once and feeds all releases."""

    batch: np.ndarray | None = None

    def release(self, kind: Kind, total: Total) -> Answer:
        def again(batch: Sequence[Tensor]) -> list[Tensor]:
            self.batch = batch if self.batch is None else self.batch
            return total(self.batch)

        source = self.noise
        if self.batch is not None:

            class Silent:
                secure = False
                add = staticmethod(source.add)

                @staticmethod
                def draw(units: int, q: float) -> np.ndarray:
                    return np.empty(0, dtype=np.int64)

            self.noise = Silent()
        try:
            return super().release(kind, again)
        finally:
            self.noise = source


class TrueBatch(DPPrivateData):
    """Divides by the number of units that were drawn."""

    def release(self, kind: Kind, total: Total) -> Answer:
        drawn = []

        def counted(batch: Sequence[Tensor]) -> list[Tensor]:
            drawn.append(max(1, len(batch)))
            return total(batch)

        released = super().release(kind, counted)
        factor = released.mechanism.denominator / drawn[0]
        return replace(released, values=[value * factor for value in released.values])


class SeededDraw(DPPrivateData):
    """Draws from the public stream of the round."""

    def begin_round(self, rng: torch.Generator, augment_rng: torch.Generator) -> None:
        super().begin_round(rng, augment_rng)
        honest = self.noise

        def draw(units: int, q: float) -> np.ndarray:
            chosen = np.flatnonzero((torch.rand(units, generator=rng) < q).numpy())
            honest.draws.append(tuple(chosen.tolist()))  # type: ignore[attr-defined]
            return chosen

        honest.draw = draw  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (HalfNoise, check_noise),
        (OneBatch, check_own_batches),
        (TrueBatch, check_denominator),
        (SeededDraw, check_secret_draws),
    ],
    ids=lambda part: part.__name__,
)
def test_fault_is_caught(fault: type[DPPrivateData], check: Callable[[Make], None]) -> None:
    with pytest.raises(AssertionError):
        check(partial(make, cls=fault))


def test_missing_clip_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "clip_and_sum", unclipped)
    with pytest.raises(AssertionError):
        check_clip(make)


def test_public_augmentation_rows_would_break_the_clip_bound() -> None:
    """A public row belongs to a place in the batch: one unit more in front changes the views of all others."""
    bound, table = 0.1, torch.rand(8, len(COLUMNS), generator=torch.Generator().manual_seed(0))
    view = labelled_view("weak", flip=False, size=SIZE)
    private = make(digits(6), noise=Still(), augment=view, rows=lambda n: table[:n], clip_gradient=bound)
    moved = clipped_sum(private, "gradient", range(6)) - clipped_sum(private, "gradient", range(1, 6))
    assert float(moved.norm()) > 1.05 * bound
    assert not torch.equal(secret_rows(6), secret_rows(6))
