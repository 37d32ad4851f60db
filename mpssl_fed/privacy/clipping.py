"""The one place where a unit's contribution is bounded: every release sums its units through :func:`clip_and_sum`.

A unit's contribution is its clipped vector rounded to a public grid. It follows from the unit's own vector alone, bit by bit,
and such contributions add up exactly: a sum does not depend on order or batches, and one unit more moves it by just its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

MARGIN = 1e-5
"""A clipped unit lies this much, relatively, below the bound, so that rounding (to the grid: 1e-7 at a hundred million entries)
does not carry it over."""

GRID_BITS = 36
"""Contributions are multiples of a power of two that is 2^-36 to 2^-35 of the bound: finer than any noise, and float64 adds up
2^17 such units without an error."""

SMALL = 1 << 18  # entries of a unit up to which its tensors are put together, for fewer calls
AT_ONCE = 1 << 17  # entries in float64 at a time: they stay in the cache


def clip_grid(bound: float) -> float:
    """Return the grid of contributions under an L2 ``bound``: a power of two."""
    return math.ldexp(1.0, math.frexp(bound)[1] - GRID_BITS)


def zero_sum(like: Tensor) -> Tensor:
    """Return the sum of no units' vectors, each shaped ``like``: float64, on the CPU where the device has no such numbers."""
    return torch.zeros_like(like, dtype=torch.float64, device="cpu" if like.device.type == "mps" else None)


def unit_norms(vectors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norms [m], float64 on the CPU, of the m units whose vectors are the rows of ``vectors`` side by side.

    vectors: tensors [m, ...]. Right to 1e-12 for every finite float32 vector, the smallest and the largest alike, since their
    squares are float64; not finite where a unit's vector is not. A unit's norm is the same whatever lies beside it.
    """
    matrices = _side_by_side(vectors)
    room = _room(matrices)
    return torch.tensor([norm for pieces in _groups(matrices) for norm in _norms(pieces, room)], dtype=torch.float64)


def clip_factor(norm: float, bound: float) -> float:
    """Return what a unit is multiplied by: 1, or what leads to ``bound`` less the margin where its norm lies above that; 0 where
    the norm is not finite."""
    most = bound * (1 - MARGIN)
    return (most / norm if norm > most else 1.0) if math.isfinite(norm) else 0.0


def clip_and_sum(vectors: Sequence[Tensor], bound: float, into: list[Tensor] | None = None) -> list[Tensor]:
    """Return the sum over units of their vectors, each clipped to L2 norm ``bound``; a unit that is not finite adds zero.

    vectors: tensors [m, ...]; unit i's vector is all their rows i together. Returns float64 tensors [...]: ``into`` (what an
    earlier call under the same bound returned) with the sum added, or new ones. Adding or removing one unit of up to 1e10 entries
    moves the result by at most ``bound`` in L2, exactly, in a sum of up to 2^17 units.
    """
    sums = [zero_sum(vector[0]) for vector in vectors] if into is None else into
    matrices = _side_by_side(vectors)
    flat = [total.view(-1) for total in sums] if len(matrices) == len(sums) else [zero_sum(matrices[0][0])]
    totals = [piece for total in flat for piece in torch.split(total, AT_ONCE)]
    step, room = clip_grid(bound), _room(matrices)
    for pieces in _groups(matrices):
        factors = [clip_factor(norm, bound) for norm in _norms(pieces, room)]
        spoilt = [unit for unit, factor in enumerate(factors) if factor == 0]
        for piece, total in zip(pieces, totals, strict=True):
            counts = _double(piece, room, there=len(pieces) == 1)
            counts.mul_(_column(factors, counts) / step).round_()  # of the grid: integers up to 2^36
            if spoilt:
                counts[spoilt] = 0  # a factor of zero does not silence a NaN
            total.add_(counts.sum(0) if len(counts) > 1 else counts[0], alpha=step)
    if len(matrices) < len(sums):
        for total, part in zip(sums, torch.split(flat[0], [total.numel() for total in sums]), strict=True):
            total.view(-1).add_(part)
    return sums


def _side_by_side(vectors: Sequence[Tensor]) -> list[Tensor]:
    """Return the vectors as matrices of m rows: one, or one each where a unit is large."""
    rows = [vector.flatten(1) for vector in vectors]
    return [torch.cat(rows, dim=1)] if len(rows) > 1 and sum(part.shape[1] for part in rows) <= SMALL else rows


def _groups(matrices: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield some units' rows: several small units, or one unit cut into pieces of at most :data:`AT_ONCE` entries."""
    step = max(1, AT_ONCE // max(1, sum(rows.shape[1] for rows in matrices)))
    for start in range(0, len(matrices[0]), step):
        yield [piece for rows in matrices for piece in torch.split(rows[start : start + step], AT_ONCE, dim=1)]


def _norms(pieces: Sequence[Tensor], room: Tensor) -> list[float]:
    """Return the norms of the m rows of pieces side by side; the last piece stays in ``room``."""
    squares = [0.0] * len(pieces[0])
    for piece in pieces:
        # row by row: a reduction over several rows at once may add up the last ones in another order
        norms = [torch.linalg.vector_norm(row) for row in _double(piece, room)]
        found = torch.stack(norms).tolist() if len(norms) > 1 else [norms[0].item()]
        if len(pieces) == 1:
            return found
        squares = [square + norm * norm for square, norm in zip(squares, found, strict=True)]
    return [math.sqrt(square) for square in squares]


def _column(factors: list[float], like: Tensor) -> Tensor | float:
    return factors[0] if len(factors) == 1 else like.new_tensor(factors).unsqueeze(1)


def _room(matrices: Sequence[Tensor]) -> Tensor:
    """Return memory for float64 pieces, one after the other: new memory for each would cost more than what is done there."""
    return zero_sum(matrices[0].new_empty(min(AT_ONCE, sum(rows.numel() for rows in matrices))))


def _double(piece: Tensor, room: Tensor, there: bool = False) -> Tensor:
    """Return a piece in float64, in ``room``. there: it lies there already."""
    found = room[: piece.numel()].view(piece.shape)
    return found if there else found.copy_(piece)
