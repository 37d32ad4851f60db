"""The one place where a unit's contribution is bounded: every release sums its units through :func:`clip_and_sum`.

A unit's contribution is its clipped vector rounded to a public grid. It follows from the unit's own vector alone, bit by bit,
and such contributions add up exactly: a sum does not depend on order or batches, and one unit more moves it by just its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MARGIN = 1e-5
"""A clipped unit lies this much, relatively, below the bound, so that rounding (to the grid: 1e-7 at a hundred million entries)
does not carry it over."""

GRID_BITS = 36
"""Contributions are multiples of a power of two that is 2^-36 to 2^-35 of the bound: finer than any noise, and float64 adds up
2^17 such units without an error."""

SMALL = 1 << 18  # entries of a unit up to which its tensors are put together, for fewer calls
COLUMNS = {True: 1 << 13, False: 1 << 16}  # of a small unit or not, in float64 at a time: they stay in the cache


def clip_grid(bound: float) -> float:
    """Return the grid of contributions under an L2 ``bound``: a power of two."""
    return math.ldexp(1.0, math.frexp(bound)[1] - GRID_BITS)


def zero_sum(like: Tensor) -> Tensor:
    """Return the sum of no units' vectors, each shaped ``like``: float64, on the CPU where the device has no such numbers."""
    return torch.zeros_like(like, dtype=torch.float64, device="cpu" if like.device.type == "mps" else None)


def unit_norms(vectors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norms [m], float64, of the m units whose vectors are the rows of ``vectors`` side by side.

    vectors: tensors [m, ...]. Right to 1e-12 for every finite float32 vector, the smallest and the largest alike, since their
    squares are float64; not finite where a unit's vector is not. A unit's norm is the same whatever lies beside it.
    """
    matrices = _side_by_side(vectors)
    squares = zero_sum(matrices[0][:, 0])
    for rows in matrices:
        for piece in _pieces(rows):
            # row by row: a reduction over several rows at once may add up the last ones in another order
            squares += torch.stack([torch.linalg.vector_norm(row) for row in _double(piece)]).square_()
    return squares.sqrt()


def clip_factors(norms: Tensor, bound: float) -> Tensor:
    """Return what each unit is multiplied by [m]: 1, or what leads to ``bound`` less the margin where its norm lies above that;
    0 where the norm is not finite."""
    most = bound * (1 - MARGIN)
    return torch.where(norms.isfinite(), torch.where(norms > most, most / norms, 1.0), 0.0)


def clip_and_sum(vectors: Sequence[Tensor], bound: float, into: list[Tensor] | None = None) -> list[Tensor]:
    """Return the sum over units of their vectors, each clipped to L2 norm ``bound``; a unit that is not finite adds zero.

    vectors: tensors [m, ...] that this call may write to; unit i's vector is all their rows i together. Returns float64 tensors
    [...]: ``into`` (what an earlier call under the same bound returned) with the sum added, or new ones. Adding or removing one
    unit of up to 1e10 entries moves the result by at most ``bound`` in L2, exactly.
    """
    sums = [zero_sum(vector[0]) for vector in vectors] if into is None else into
    matrices = _side_by_side(vectors)
    norms = unit_norms(matrices)
    zero, step = ~norms.isfinite(), clip_grid(bound)
    scale = (clip_factors(norms, bound) / step).unsqueeze(1)
    ones = torch.ones_like(norms)
    flat = [total.view(-1) for total in sums] if len(matrices) == len(sums) else [zero_sum(matrices[0][0])]
    for rows, total in zip(matrices, flat, strict=True):
        rows[zero.to(rows.device)] = 0  # a factor of zero does not silence a NaN
        start = 0
        for piece in _pieces(rows):
            counts = _double(piece).mul_(scale).round_()  # of the grid: integers up to 2^36
            total[start : start + piece.shape[1]].add_(ones @ counts if len(counts) > 1 else counts[0], alpha=step)
            start += piece.shape[1]
    if len(matrices) < len(sums):
        for total, part in zip(sums, flat[0].split([total.numel() for total in sums]), strict=True):
            total.view(-1).add_(part)
    return sums


def _side_by_side(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Return the vectors as matrices of m rows: one, or one each where a unit is large."""
    rows = [vector.flatten(1) for vector in vectors]
    return [torch.cat(rows, dim=1)] if len(rows) > 1 and sum(part.shape[1] for part in rows) <= SMALL else rows


def _pieces(rows: Tensor) -> Sequence[Tensor]:
    return rows.split(COLUMNS[rows.shape[1] <= SMALL], dim=1)


def _double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64, copy=True)
