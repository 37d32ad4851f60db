"""Endless renders of glyphs, and the latents that they are regressed on: nuisances and an embedding of the font."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.generators.glyphs import NUISANCES, GlyphBank, render

CUT = 2.0
EMBEDDING_NOISE = 0.25  # standard deviation added to the whitened font embedding, so that G fills the space between fonts


def truncated_normal(rng: torch.Generator, *shape: int) -> Tensor:
    """Return N(0, 1) cut at 2 by the inverse distribution function."""
    edge = torch.special.ndtr(torch.tensor(CUT, dtype=torch.float64))
    uniform = torch.rand(*shape, generator=rng, dtype=torch.float64)
    z: Tensor = torch.special.ndtri((1 - edge) + uniform * (2 * edge - 1))
    return z.clamp(-CUT, CUT).float()


class RenderStream:
    """Endless random renders of a glyph bank: balanced over classes, uniform over the fonts that draw a class."""

    def __init__(self, bank: GlyphBank, rng: torch.Generator, fonts: np.ndarray | None = None) -> None:
        self.glyphs, self.rng = torch.from_numpy(bank.glyphs), rng
        allowed = np.ones(len(bank.fonts), bool) if fonts is None else fonts
        self.drawn_by = [torch.from_numpy(np.flatnonzero(column & allowed)) for column in bank.present.T]
        self.classes = [c for c, fonts_of in enumerate(self.drawn_by) if len(fonts_of)]
        self.queue: list[int] = []

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return images [n, 1, 32, 32], classes [n], fonts [n] and nuisances [n, 11]."""
        while len(self.queue) < n:
            order = torch.randperm(len(self.classes), generator=self.rng)
            self.queue += [self.classes[i] for i in order.tolist()]
        labels, self.queue = self.queue[:n], self.queue[n:]
        fonts = torch.stack([self.drawn_by[c][torch.randint(len(self.drawn_by[c]), (), generator=self.rng)] for c in labels])
        y, nuisance = torch.tensor(labels), truncated_normal(self.rng, n, NUISANCES)
        return render(self.glyphs[fonts, y].float() / 255, nuisance), y, fonts, nuisance


class FontEmbedding(nn.Module):
    """A trainable vector a font, whitened over the fonts, so that N(0, I) stands for a random font."""

    def __init__(self, bank: GlyphBank, width: int) -> None:
        super().__init__()
        small = torch.from_numpy(bank.glyphs[:, :, ::4, ::4].astype(np.float32) / 255).flatten(2)
        there = torch.from_numpy(bank.present)[..., None].float()
        centred = ((small - (small * there).sum(0) / there.sum(0)) * there).flatten(1)
        parts = torch.linalg.svd(centred.double(), full_matrices=False).U[:, :width].float()
        # Principal components by rank: each starts as a Gaussian, whatever its outliers.
        ranks = (parts.argsort(0).argsort(0) + 0.5) / len(parts)
        self.raw = nn.Parameter(F.pad(torch.special.ndtri(ranks), (0, width - parts.shape[1])))

    def forward(self) -> Tensor:
        """Return [fonts, width]: zero mean and covariance (1 - noise^2) I over the fonts."""
        raw = self.raw.double()
        centred = raw - raw.mean(0)
        width = self.raw.shape[1]
        covariance = centred.T @ centred / len(centred) + 1e-3 * torch.eye(width, dtype=centred.dtype)
        white: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), centred.T, upper=False).T
        return (math.sqrt(1 - EMBEDDING_NOISE**2) * white).float()
