"""Train the VQ-VAE and the few-step flow on renders of glyphs, in minutes on one core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.generators.diffusion import FewStepFlow
from mpssl_fed.generators.distil import EMBEDDING_NOISE, FontEmbedding, RenderStream, round_to_half, truncated_normal
from mpssl_fed.generators.fit import Course, Fitted, Report, fit, ink_loss
from mpssl_fed.generators.glyphs import IMAGE_SIZE, NUISANCES, GlyphBank
from mpssl_fed.generators.small import build_sampler
from mpssl_fed.generators.vqvae import Encoder, VQSampler, nearest
from mpssl_fed.seeds import seed_of, torch_rng

COMMITMENT = 0.25  # the weight of the encoder's pull to its code, as in the paper
TEACHER_STEPS = 24


@dataclass(frozen=True)
class SmallSettings:
    """Everything that, with the fonts, decides the result. ``iterations`` are those of the last network trained."""

    kind: str
    iterations: int
    seed: int = 0
    batch: int = 96
    learning_rate: float = 2e-3
    renders: int = 40_000
    ema: float = 0.998

    def config(self, classes: int) -> dict[str, Any]:
        """Return config.json."""
        common = {"kind": self.kind, "size": IMAGE_SIZE, "num_classes": classes}
        if self.kind == "vqvae":
            return {**common, "z_dim": 9 + NUISANCES, "hidden": 256, "width": 96, "codes": 128, "code_dim": 16}
        return {**common, "z_dim": 64, "hidden": 320, "steps": 4}


@dataclass(frozen=True)
class Pool:
    """Renders, drawn once: images [n, 1, 32, 32] as uint8, classes, fonts [n] and nuisances [n, 11]."""

    pixels: Tensor
    y: Tensor
    font: Tensor
    nuisance: Tensor
    classes: int

    def x(self, index: Tensor | slice) -> Tensor:
        """Return images in [-1, 1]."""
        return self.pixels[index].float() / 127.5 - 1

    def one_hot(self, index: Tensor) -> Tensor:
        """Return the labels [n, K] as the generator takes them."""
        return F.one_hot(self.y[index], self.classes).float()


def train_small(bank: GlyphBank, settings: SmallSettings, report: Report) -> tuple[nn.Module, dict[str, Any]]:
    """Return the trained sampler (weights exact in float16) and a record of the training.

    Ctrl-C while the last network trains ends it early with what has been learned; the record says so.
    """
    started = time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(settings.seed, settings.kind, "initial weights") % 2**63)
        sampler = build_sampler(settings.config(len(bank.classes)))
        work = _VQVAE(sampler, bank, settings) if isinstance(sampler, VQSampler) else _Flow(sampler, bank, settings)
    record = work.train(report)
    round_to_half(sampler)
    record["training_cpu_seconds"] = round(time.process_time() - started, 1)
    return sampler, record


class _Training:
    """What both kinds share: the pool of renders, its random state and a stage of training."""

    def __init__(self, bank: GlyphBank, settings: SmallSettings) -> None:
        self.settings = settings
        self.rng = torch_rng(settings.seed, settings.kind, "train")
        stream, parts = RenderStream(bank, self.rng), []
        for start in range(0, settings.renders, 500):
            x, y, font, nuisance = stream.draw(min(500, settings.renders - start))
            parts.append((((x + 1) * 127.5).round().clamp(0, 255).byte(), y, font, nuisance))
        pixels, y, font, nuisance = (torch.cat(part) for part in zip(*parts, strict=True))
        self.pool = Pool(pixels, y, font, nuisance, len(bank.classes))

    def stage(
        self, weights: list[Tensor], steps: int, loss_of: Callable[[int, Tensor], Tensor], report: Report | None = None
    ) -> Fitted:
        """Fit ``weights`` on random batches of the pool and leave their average in them; ``report`` is the last stage's."""

        def on_batch(step: int) -> Tensor:
            return loss_of(step, torch.randint(len(self.pool.y), (self.settings.batch,), generator=self.rng))

        def scale(step: int) -> float:
            return 0.5 + 0.5 * math.cos(math.pi * step / steps)

        fitted = fit(weights, on_batch, Course(steps, self.settings.learning_rate, scale, self.settings.ema), report)
        with torch.no_grad():
            torch._foreach_copy_(weights, fitted.average)
        return fitted


class _VQVAE(_Training):
    """First the VQ-VAE on images, then its prior on the codes of renders whose nuisances and font embedding are z."""

    def __init__(self, sampler: VQSampler, bank: GlyphBank, settings: SmallSettings) -> None:
        super().__init__(bank, settings)
        codes, code_dim = sampler.codebook.shape
        self.sampler, self.encoder = sampler, Encoder(code_dim)
        self.fonts = FontEmbedding(bank, settings.config(self.pool.classes)["z_dim"] - NUISANCES)
        self.used = torch.zeros(codes, dtype=torch.bool)

    def train(self, report: Report) -> dict[str, Any]:
        sampler, first = self.sampler, max(1, self.settings.iterations // 2)
        warm = max(1, first // 20)  # steps of a plain autoencoder, so that the codebook starts among real codes

        def reconstruct(step: int, index: Tensor) -> Tensor:
            x = self.pool.x(index)
            codes = self.encoder(x)
            if step == warm or (step > warm and step % 100 == 0 and step < first // 2):
                self._revive(codes, everything=step == warm)
            if step < warm:
                return ink_loss(sampler.decoder(codes), x)
            chosen = nearest(codes, sampler.codebook)
            self.used[chosen] = True
            quantised = sampler.codebook[chosen].movedim(-1, 1)
            pull = F.mse_loss(quantised, codes.detach()) + COMMITMENT * F.mse_loss(codes, quantised.detach())
            return ink_loss(sampler.decoder(codes + (quantised - codes).detach()), x) + pull  # straight-through

        vqvae: list[Tensor] = [*self.encoder.parameters(), *sampler.decoder.parameters(), sampler.codebook]
        reconstruction = self.stage(vqvae, first, reconstruct).loss
        for weight in vqvae:
            weight.requires_grad_(False)

        def predict(_: int, index: Tensor) -> Tensor:
            x = self.pool.x(index)
            noise = EMBEDDING_NOISE * truncated_normal(self.rng, len(index), self.fonts.raw.shape[1])
            z = torch.cat([self.pool.nuisance[index], self.fonts()[self.pool.font[index]] + noise], 1)
            logits = sampler.prior(z, self.pool.one_hot(index))
            match = F.cross_entropy(logits, nearest(self.encoder(x), sampler.codebook))
            return ink_loss(sampler.decoder(sampler.mixture(logits)), x) + 0.05 * match

        prior = _weights(sampler.label, sampler.mix, sampler.spread, sampler.refine, self.fonts)
        fitted = self.stage(prior, self.settings.iterations, predict, report)
        used = len(torch.unique(nearest(self.encoder(self.pool.x(slice(0, 2000))), sampler.codebook)))
        return {**fitted.record(), "reconstruction_loss": reconstruction, "codes_used": used}

    @torch.no_grad()
    def _revive(self, codes: Tensor, everything: bool) -> None:
        flat = codes.movedim(1, -1).flatten(0, 2)
        dead = torch.ones_like(self.used) if everything else ~self.used
        picks = torch.randint(len(flat), (int(dead.sum()),), generator=self.rng)
        self.sampler.codebook[dead] = flat[picks]
        self.used.zero_()


class _Flow(_Training):
    """Principal components, the painter, a flow by matching (arXiv 2210.02747), then its network on its own straight pairs."""

    def __init__(self, sampler: FewStepFlow, bank: GlyphBank, settings: SmallSettings) -> None:
        super().__init__(bank, settings)
        self.sampler, self.width = sampler, len(sampler.basis)

    def train(self, report: Report) -> dict[str, Any]:
        sampler, steps = self.sampler, self.settings.iterations
        components = self._components()

        def paint(_: int, index: Tensor) -> Tensor:
            return ink_loss(sampler.paint(components[index]), self.pool.x(index))

        painting = self.stage(_weights(sampler.draw), max(1, steps // 10), paint).loss
        sampler.draw.requires_grad_(False)
        network = _weights(sampler.label, sampler.enter, sampler.blocks, sampler.leave)

        def match(_: int, index: Tensor) -> Tensor:
            noise = truncated_normal(self.rng, len(index), self.width)
            return self._match(noise, components[index], self.pool.one_hot(index))

        matching = self.stage(network, 2 * steps, match).loss
        noise = truncated_normal(self.rng, len(components), self.width)
        everyone = F.one_hot(self.pool.y, self.pool.classes).float()
        with torch.no_grad():
            arrived = torch.cat(
                [
                    sampler.flow(a, b, TEACHER_STEPS)
                    for a, b in zip(torch.split(noise, 1000), torch.split(everyone, 1000), strict=True)
                ]
            )

        def straighten(_: int, index: Tensor) -> Tensor:
            return self._match(noise[index], arrived[index], everyone[index])

        fitted = self.stage(network, steps, straighten, report)
        return {**fitted.record(), "matching_loss": matching, "painting_loss": painting}

    @torch.no_grad()
    def _components(self) -> Tensor:
        # float64: of a covariance that lacks rank, some processors' float32 routine makes NaN
        flat = self.pool.x(slice(None)).flatten(1).double()
        mean = flat.mean(0)
        values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
        top = vectors[:, -self.width :].flip(1)
        # Half whitened, by the root of the standard deviation: large components stay larger, so that the flow heeds them first.
        scale = values.flip(0)[: self.width].clamp_min(1e-8).pow(0.25)
        self.sampler.mean.copy_(mean)
        self.sampler.basis.copy_((top * scale).T)
        coordinates: Tensor = (flat - mean) @ (top / scale)
        return coordinates.float()

    def _match(self, noise: Tensor, image: Tensor, label: Tensor) -> Tensor:
        t = torch.rand(len(noise), 1, generator=self.rng)
        return F.mse_loss(self.sampler.velocity((1 - t) * noise + t * image, t, label), image - noise)


def _weights(*modules: nn.Module) -> list[Tensor]:
    return [weight for module in modules for weight in module.parameters()]
