"""Canaries: who is in, the vectors that they put into each read, and what the attacker sees of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mpssl_fed.privacy.units import clipping

LENGTH = 3.0
"""A canary's vector before clipping, in clip bounds."""
CHUNK = 256


@dataclass
class Seen:
    """All answers of one kind added up [d], how many, and what a canary (size) and the noise (std) do to a coordinate of one."""

    total: Tensor
    reads: int
    size: float
    std: float


@dataclass
class Canaries:
    """m canaries: who is in, the sign of each, and what the attacker has seen."""

    included: np.ndarray
    signs: Tensor
    seen: dict[str, Seen] = field(default_factory=dict)

    @classmethod
    def of(cls, m: int, rng: np.random.Generator) -> Canaries:
        """Return m canaries, each in with probability 1/2."""
        return cls(rng.random(m) < 0.5, torch.from_numpy(rng.choice([-1.0, 1.0], m)))

    def units(self) -> list[Tensor]:
        """Return those that are in as units: canary i is the image number -1 - i."""
        return [torch.tensor([-1 - i]) for i in np.flatnonzero(self.included).tolist()]

    def add_to(self, sums: list[Tensor], drawn: Tensor, bound: float | None) -> list[Tensor]:
        """Return ``sums`` plus the vectors of the canaries ``drawn`` [k], clipped by the release's own code unless bound is None.

        Canary i lies on coordinate i modulo the length of the sums put together.
        """
        flat = torch.cat([part.flatten() for part in sums])
        for some in torch.split(drawn, CHUNK):
            rows = torch.diag(torch.full((len(some),), LENGTH * (bound or 1.0), dtype=flat.dtype))
            sizes = rows.sum(0) if bound is None else clipping.clip_and_sum([rows], bound)[0]
            flat.index_add_(0, (some % len(flat)).to(flat.device), (sizes * self.signs[some]).to(flat))
        return [part.view(old.shape) for part, old in zip(torch.split(flat, [s.numel() for s in sums]), sums, strict=True)]

    def see(self, kind: str, answer: Tensor, size: float, std: float) -> None:
        """Note a sum in which a canary moves its coordinate by ``size`` and noise of ``std`` lies."""
        flat = answer.flatten().cpu().double()
        before = self.seen.get(kind, Seen(torch.zeros_like(flat), 0, size, std))
        self.seen[kind] = Seen(before.total + flat, before.reads + 1, size, std)

    def evidence(self, kind: str) -> Tensor:
        """Return the log-likelihood ratio of each canary [m], up to a constant, from all answers of a kind.

        Canaries that share a coordinate are noise to each other, the same in each answer.
        """
        seen = self.seen[kind]
        others = max(0.0, len(self.signs) / len(seen.total) - 1) / 4 * seen.size**2
        places = torch.arange(len(self.signs)) % len(seen.total)
        return self.signs * seen.total[places] * seen.size / (seen.std**2 + seen.reads * others)
