"""The one place where a unit's contribution is bounded: every release sums its units through :func:`clip_and_sum`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 4096  # float32 norms of short blocks, put together in float64: exact enough without a float64 copy
MARGIN = 1e-5  # a clipped unit is scaled this much below the bound, so that float32 rounding does not carry it over


def unit_norms(vectors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norms [m], float64 on the CPU, of the m units whose vectors are the rows of ``vectors`` side by side.

    vectors: tensors [m, ...]. The norm is not finite where a unit's vector is not, or is so large (above 1e19) that its
    square overflows float32.
    """
    parts = []
    for vector in vectors:
        rows = vector.flatten(1)  # [m, d]
        whole = rows.shape[1] - rows.shape[1] % BLOCK
        if whole:
            parts.append(torch.linalg.vector_norm(rows[:, :whole].unflatten(1, (-1, BLOCK)), dim=2))
        if whole < rows.shape[1]:
            parts.append(torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True))
    return torch.cat(parts, dim=1).cpu().double().square().sum(1).sqrt()


def clip_factors(norms: Tensor, bound: float) -> Tensor:
    """Return what each unit is multiplied by [m]: 1 within ``bound``, bound / norm beyond, 0 where the norm is not finite."""
    beyond = bound / norms * (1 - MARGIN)
    return torch.where(norms.isfinite(), torch.where(norms > bound, beyond, torch.ones_like(norms)), torch.zeros_like(norms))


def clip_and_sum(vectors: Sequence[Tensor], bound: float) -> list[Tensor]:
    """Return the sum over units of their vectors, each clipped to L2 norm ``bound``; a unit that is not finite adds zero.

    vectors: tensors [m, ...] that this call may write to; unit i's vector is all their rows i together. Returns tensors [...].
    Adding or removing one unit moves the result by at most ``bound`` in L2.
    """
    factors = clip_factors(unit_norms(vectors), bound)
    zero = factors == 0
    sums = []
    for vector in vectors:
        rows = vector.flatten(1)
        rows[zero.to(rows.device)] = 0  # a factor of zero does not silence a NaN
        sums.append((factors.to(rows.dtype).to(rows.device) @ rows).view(vector.shape[1:]))
    return sums
