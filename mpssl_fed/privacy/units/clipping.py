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

AT_ONCE = 1 << 17  # entries in float64 at a time: they stay in the cache; a unit of no more is put together there, for fewer calls
CALLS = 4  # times AT_ONCE, about, that are put together in one call


def clip_grid(bound: float) -> float:
    """Return the grid of contributions under an L2 ``bound``: a power of two."""
    return math.ldexp(1.0, math.frexp(bound)[1] - GRID_BITS)


def zero_sum(like: Tensor) -> Tensor:
    """Return the sum of no units' vectors, each shaped ``like``: float64, on the CPU where the device has no such numbers."""
    return torch.zeros(like.shape, dtype=torch.float64, device="cpu" if like.device.type == "mps" else like.device)


def unit_norms(vectors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norms [m], float64 on the CPU, of the m units whose vectors are the rows of ``vectors`` side by side.

    vectors: tensors [m, ...]. Right to 1e-12 for every finite float32 vector, the smallest and the largest alike, since their
    squares are float64; not finite where a unit's vector is not. A unit's norm is the same whatever lies beside it.
    """
    rows = [vector.flatten(1) for vector in vectors]
    room = _room(rows)
    return torch.tensor([norm for pieces in _groups(rows, room) for norm in _norms(pieces, room)], dtype=torch.float64)


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
    rows = [vector.flatten(1) for vector in vectors]
    together = _put_together(rows)
    flat = [zero_sum(rows[0].new_empty(_entries(rows)))] if together else [total.view(-1) for total in sums]
    totals = [piece for total in flat for piece in torch.split(total, AT_ONCE)]
    step, room = clip_grid(bound), _room(rows)
    for pieces in _groups(rows, room):
        factors = [clip_factor(norm, bound) for norm in _norms(pieces, room)]
        spoilt = [unit for unit, factor in enumerate(factors) if factor == 0]
        for piece, total in zip(pieces, totals, strict=True):
            counts = piece if together else _double(piece, room, there=len(pieces) == 1)
            counts.mul_(_column(factors, counts) / step).round_()  # of the grid: integers up to 2^36
            if spoilt:
                counts[spoilt] = 0  # a factor of zero does not silence a NaN
            total.add_(counts.sum(0) if len(counts) > 1 else counts[0], alpha=step)
    if together:
        for total, part in zip(sums, torch.split(flat[0], [total.numel() for total in sums]), strict=True):
            total.view(-1).add_(part)
    return sums


def _entries(rows: Sequence[Tensor]) -> int:
    return sum(part.shape[1] for part in rows)


def _put_together(rows: Sequence[Tensor]) -> bool:
    return len(rows) > 1 and _entries(rows) <= AT_ONCE


def _groups(rows: Sequence[Tensor], room: Tensor) -> Iterator[list[Tensor]]:
    """Yield some units' rows: several small units, put together in ``room``, or one unit cut into pieces of :data:`AT_ONCE`."""
    entries = _entries(rows)
    step = max(1, AT_ONCE // max(1, entries))
    if not _put_together(rows):
        for start in range(0, len(rows[0]), step):
            yield [piece for part in rows for piece in torch.split(part[start : start + step], AT_ONCE, dim=1)]
        return
    for start in range(0, len(rows[0]), step * CALLS):
        together = torch.cat([part[start : start + step * CALLS] for part in rows], dim=1)
        for some in torch.split(together, step):
            yield [room[: some.numel()].view(some.shape).copy_(some)]


def _norms(pieces: Sequence[Tensor], room: Tensor) -> list[float]:
    """Return the norms of the m rows of pieces side by side; the last piece stays in ``room``."""
    squares = [0.0] * len(pieces[0])
    for piece in pieces:
        # row by row: a reduction over several rows at once may add up the last ones in another order
        norms = [torch.linalg.vector_norm(row) for row in _double(piece, room, there=piece.data_ptr() == room.data_ptr())]
        found = torch.stack(norms).tolist() if len(norms) > 1 else [norms[0].item()]
        if len(pieces) == 1:
            return found
        squares = [square + norm * norm for square, norm in zip(squares, found, strict=True)]
    return [math.sqrt(square) for square in squares]


def _column(factors: list[float], like: Tensor) -> Tensor | float:
    return factors[0] if len(factors) == 1 else like.new_tensor(factors).unsqueeze(1)


def _room(rows: Sequence[Tensor]) -> Tensor:
    """Return memory for float64 pieces, one after the other: new memory for each would cost more than what is done there."""
    return zero_sum(rows[0].new_empty(min(AT_ONCE, sum(part.numel() for part in rows))))


def _double(piece: Tensor, room: Tensor, there: bool = False) -> Tensor:
    """Return a piece in float64, in ``room``. there: it lies there already."""
    found = room[: piece.numel()].view(piece.shape)
    return found if there else found.copy_(piece)
