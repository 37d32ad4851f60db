"""Train a small BigGAN in minutes: regress G(z, class) on a glyph renderer whose nuisances and font embedding are z."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from pytorch_pretrained_biggan.model import BigGANBatchNorm
from torch import Tensor, nn

from mpssl_fed.generators.fit import Course, Report, fit, ink_loss
from mpssl_fed.generators.glyphs import IMAGE_SIZE, NUISANCES, GlyphBank, render
from mpssl_fed.seeds import seed_of, torch_rng

CUT = 2.0
EMBEDDING_NOISE = 0.25  # standard deviation added to the whitened font embedding, so that G fills the space between fonts


@dataclass(frozen=True)
class DistilSettings:
    """Everything that, with the fonts, decides the result. ``embedding`` + 11 nuisances make up z."""

    iterations: int = 4000
    seed: int = 0
    channel_width: int = 16
    embedding: int = 9
    batch: int = 24
    learning_rate: float = 4e-3
    ema: float = 0.995
    n_stats: int = 11
    bake_images: int = 720

    @property
    def z_dim(self) -> int:
        """Width of the latent: font embedding plus renderer nuisances."""
        return self.embedding + NUISANCES

    def config(self, classes: int) -> dict[str, Any]:
        """Return the BigGAN config.json of a 32 x 32 generator with four blocks and no attention."""
        return {
            "output_dim": IMAGE_SIZE,
            "z_dim": self.z_dim,
            "class_embed_dim": self.z_dim,
            "eps": 1e-4,
            "channel_width": self.channel_width,
            "num_classes": classes,
            "n_stats": self.n_stats,
            "layers": [[True, 16, 8], [True, 8, 4], [False, 4, 2], [True, 2, 1]],
            "attention_layer_position": -1,
        }


class BatchStatistics(BigGANBatchNorm):  # type: ignore[misc]  # its package has no types
    """BigGANBatchNorm with the statistics of the batch at hand; the same parameters and buffers, and it keeps the last."""

    last: tuple[Tensor, Tensor]

    def forward(self, x: Tensor, truncation: float, condition_vector: Tensor | None = None) -> Tensor:
        """Normalise x [n, C, H, W]; ``truncation`` is the package's signature and does not matter here."""
        if not torch.is_grad_enabled():
            self.last = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        if condition_vector is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        weight = 1 + self.scale(condition_vector)[..., None, None]
        bias = self.offset(condition_vector)[..., None, None]
        return torch.addcmul(bias, F.batch_norm(x, None, None, training=True, eps=self.eps), weight)


@contextmanager
def batch_statistics(model: BigGAN) -> Iterator[list[BatchStatistics]]:
    """Let every norm of ``model`` use batch statistics inside the block; the package's own class before and after."""
    norms = [module for module in model.modules() if isinstance(module, BigGANBatchNorm)]
    for norm in norms:
        norm.__class__ = BatchStatistics
    try:
        yield norms
    finally:
        for norm in norms:
            norm.__class__ = BigGANBatchNorm


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


def distil(bank: GlyphBank, settings: DistilSettings, report: Report) -> tuple[BigGAN, dict[str, Any]]:
    """Train on ``bank`` and return the baked generator (weights exact in float16) and a record of the training.

    Ctrl-C during training ends it early with what has been learned; the record says so.
    """
    started = time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(settings.seed, "distil", "initial weights") % 2**63)
        model = BigGAN(BigGANConfig.from_dict(settings.config(len(bank.classes))))
        fonts = FontEmbedding(bank, settings.embedding)
    nn.init.ones_(model.generator.bn.weight)
    nn.init.zeros_(model.generator.bn.bias)
    average = copy.deepcopy(model)
    record = _train(model, average, fonts, RenderStream(bank, torch_rng(settings.seed, "distil", "renders")), settings, report)
    record["training_cpu_seconds"] = round(time.process_time() - started, 1)
    bake(average, settings)
    record["baking_cpu_seconds"] = round(time.process_time() - started - record["training_cpu_seconds"], 1)
    return average, record


def _train(
    model: BigGAN, average: BigGAN, fonts: FontEmbedding, stream: RenderStream, settings: DistilSettings, report: Report
) -> dict[str, Any]:
    half = settings.iterations / 2
    model.train().to(memory_format=torch.channels_last)
    model.generator.tanh = nn.Identity()  # the loss wants logits

    def loss_of(_: int) -> Tensor:
        x, y, font, nuisance = stream.draw(settings.batch)
        noise = EMBEDDING_NOISE * truncated_normal(stream.rng, settings.batch, settings.embedding)
        z = torch.cat([nuisance, fonts()[font] + noise], 1)
        return ink_loss(model(z, F.one_hot(y, stream_classes(model)).float(), 1.0), x)

    with batch_statistics(model):
        fitted = fit(
            [*model.parameters(), *fonts.parameters()],
            loss_of,
            Course(
                settings.iterations,
                settings.learning_rate,
                lambda i: 0.5 + 0.5 * math.cos(math.pi * max(0.0, i / half - 1)) if i else 0.1,
                settings.ema,
            ),
            report,
        )
    with torch.no_grad():
        for weight, mean in zip(average.parameters(), fitted.average, strict=False):  # the fonts' average is not kept
            weight.copy_(mean)
    return fitted.record()


def stream_classes(model: BigGAN) -> int:
    """Return how many foundation labels a BigGAN takes."""
    return int(model.config.num_classes)


@torch.no_grad()
def bake(model: BigGAN, settings: DistilSettings) -> None:
    """Round the weights to float16, settle spectral norm, then store running statistics for every truncation row.

    In this order, so that the saved float16 file is the very generator whose statistics were taken. Row i belongs to
    truncation i / (n_stats - 1); row 0 (truncation 0, never asked for) repeats row 1.
    """
    rng = torch_rng(settings.seed, "distil", "bake")
    classes = stream_classes(model)
    model.to(memory_format=torch.channels_last)
    round_to_half(model)
    labels = F.one_hot(torch.arange(settings.bake_images) % classes, classes).float()
    with batch_statistics(model) as norms:
        model.train()
        for _ in range(30):  # each forward in train mode is one power iteration
            model(truncated_normal(rng, 2, settings.z_dim), labels[:2], 1.0)
        round_to_half(model)
        model.eval()
        z = truncated_normal(rng, settings.bake_images, settings.z_dim)
        for row in range(1, settings.n_stats):
            truncation = row / (settings.n_stats - 1)
            model(truncation * z, labels, truncation)
            for norm in norms:
                norm.running_means[row], norm.running_vars[row] = norm.last
                if row == 1:
                    norm.running_means[0], norm.running_vars[0] = norm.last
        for norm in norms:
            del norm.last
    round_to_half(model)


def round_to_half(model: nn.Module) -> None:
    """Round parameters and buffers to what a float16 file holds; their type stays."""
    for tensor in model.state_dict().values():
        tensor.copy_(tensor.half().float())
