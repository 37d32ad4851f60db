"""Train the VQ-VAE and the few-step flow on renders of glyphs, in minutes on one core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.generators.diffusion import FewStepFlow
from mpssl_fed.generators.distil import EMBEDDING_NOISE, FontEmbedding, RenderStream, Report, round_to_half, truncated_normal
from mpssl_fed.generators.glyphs import IMAGE_SIZE, NUISANCES, GlyphBank
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
        config = settings.config(len(bank.classes))
        sizes = {key: value for key, value in config.items() if key not in ("kind", "size", "num_classes")}
        work: _VQVAE | _Flow = (_VQVAE if settings.kind == "vqvae" else _Flow)(bank, settings, sizes)
    work.report = report
    record = work.train()
    round_to_half(work.sampler)
    record["training_cpu_seconds"] = round(time.process_time() - started, 1)
    return work.sampler, record


class _Training:
    """What both kinds share: the pool of renders, its random state and the loop."""

    sampler: nn.Module
    report: Report

    def __init__(self, bank: GlyphBank, settings: SmallSettings) -> None:
        self.settings = settings
        self.rng = torch_rng(settings.seed, settings.kind, "train")
        stream, parts = RenderStream(bank, self.rng), []
        for start in range(0, settings.renders, 500):
            x, y, font, nuisance = stream.draw(min(500, settings.renders - start))
            parts.append((((x + 1) * 127.5).round().clamp(0, 255).byte(), y, font, nuisance))
        pixels, y, font, nuisance = (torch.cat(part) for part in zip(*parts, strict=True))
        self.pool = Pool(pixels, y, font, nuisance, len(bank.classes))

    def batches(self, steps: int) -> Iterator[Tensor]:
        for _ in range(steps):
            yield torch.randint(len(self.pool.y), (self.settings.batch,), generator=self.rng)

    def optimise(
        self, modules: list[nn.Module], steps: int, loss_of: Callable[[int, Tensor], Tensor], shown: bool = False
    ) -> tuple[int, float, bool]:
        """Run Adam with a cosine schedule; ``shown``: the last stage, whose progress is shown and whose average is kept.

        Return the steps done, the mean of the last losses, and whether Ctrl-C ended it.
        """
        weights: list[Tensor] = list(chain.from_iterable(module.parameters() for module in modules))
        optimiser = torch.optim.Adam(weights, self.settings.learning_rate, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 0.5 + 0.5 * math.cos(math.pi * i / steps))
        average = [weight.detach().clone() for weight in weights]
        losses: list[float] = []
        interrupted = False
        try:
            for done, index in enumerate(self.batches(steps), start=1):
                loss = loss_of(done, index)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
                keep = min(self.settings.ema, done / (done + 9))
                with torch.no_grad():
                    torch._foreach_lerp_(average, weights, 1 - keep)
                if shown and (done % 50 == 0 or done in (1, steps)):
                    self.report(done, steps, sum(losses[-50:]) / len(losses[-50:]))
        except KeyboardInterrupt:
            interrupted = True
            if not shown or not losses:
                raise
        with torch.no_grad():
            torch._foreach_copy_(weights, average)
        return len(losses), sum(losses[-50:]) / len(losses[-50:]), interrupted


class _VQVAE(_Training):
    """First the VQ-VAE on images, then its prior on the codes of renders whose nuisances and font embedding are z."""

    def __init__(self, bank: GlyphBank, settings: SmallSettings, sizes: dict[str, int]) -> None:
        super().__init__(bank, settings)
        self.sampler: VQSampler = VQSampler(self.pool.classes, **sizes)
        self.encoder, self.fonts = Encoder(sizes["code_dim"]), FontEmbedding(bank, sizes["z_dim"] - NUISANCES)
        self.used = torch.zeros(sizes["codes"], dtype=torch.bool)

    def train(self) -> dict[str, Any]:
        sampler, first = self.sampler, max(1, self.settings.iterations // 2)
        warm = max(1, first // 20)  # steps of a plain autoencoder, so that the codebook starts among real codes

        def reconstruct(step: int, index: Tensor) -> Tensor:
            x = self.pool.x(index)
            codes = self.encoder(x)
            if step == warm or (step > warm and step % 100 == 0 and step < first // 2):
                self._revive(codes, everything=step == warm)
            if step < warm:
                return _drawn(sampler.decoder(codes), x)
            chosen = nearest(codes, sampler.codebook)
            self.used[chosen.unique()] = True
            quantised = sampler.codebook[chosen].movedim(-1, 1)
            pull = F.mse_loss(quantised, codes.detach()) + COMMITMENT * F.mse_loss(codes, quantised.detach())
            return _drawn(sampler.decoder(codes + (quantised - codes).detach()), x) + pull  # straight-through

        _, reconstruction, _ = self.optimise([self.encoder, sampler.decoder, _Holder(sampler.codebook)], first, reconstruct)
        for part in (self.encoder, sampler.decoder, _Holder(sampler.codebook)):
            part.requires_grad_(False)

        def predict(_: int, index: Tensor) -> Tensor:
            x = self.pool.x(index)
            noise = EMBEDDING_NOISE * truncated_normal(self.rng, len(index), self.fonts.raw.shape[1])
            z = torch.cat([self.pool.nuisance[index], self.fonts()[self.pool.font[index]] + noise], 1)
            logits = sampler.prior(z, self.pool.one_hot(index))
            match = F.cross_entropy(logits, nearest(self.encoder(x), sampler.codebook))
            return _drawn(sampler.decoder(sampler.mixture(logits)), x) + 0.05 * match

        prior = [sampler.label, sampler.mix, sampler.spread, sampler.refine, self.fonts]
        done, loss, interrupted = self.optimise(prior, self.settings.iterations, predict, shown=True)
        used = nearest(self.encoder(self.pool.x(slice(0, 2000))), sampler.codebook).unique().numel()
        return {
            "iterations_done": done, "interrupted": interrupted, "final_loss": loss, "reconstruction_loss": reconstruction,
            "codes_used": used,
        }  # fmt: skip

    @torch.no_grad()
    def _revive(self, codes: Tensor, everything: bool) -> None:
        flat = codes.movedim(1, -1).flatten(0, 2)
        dead = torch.ones_like(self.used) if everything else ~self.used
        picks = torch.randint(len(flat), (int(dead.sum()),), generator=self.rng)
        self.sampler.codebook[dead] = flat[picks]
        self.used.zero_()


class _Flow(_Training):
    """Components by SVD, the painter, a flow by matching (arXiv 2210.02747), then the same network on its own straight pairs."""

    def __init__(self, bank: GlyphBank, settings: SmallSettings, sizes: dict[str, int]) -> None:
        super().__init__(bank, settings)
        self.sampler: FewStepFlow = FewStepFlow(self.pool.classes, **sizes)
        self.width = sizes["z_dim"]

    def train(self) -> dict[str, Any]:
        sampler, steps = self.sampler, self.settings.iterations
        components = self._components()
        painting = self.optimise(
            [sampler.draw], max(1, steps // 10), lambda _, index: _drawn(sampler.paint(components[index]), self.pool.x(index))
        )[1]
        sampler.draw.requires_grad_(False)
        network = [sampler.label, sampler.enter, sampler.blocks, sampler.leave]

        def match(_: int, index: Tensor) -> Tensor:
            noise = truncated_normal(self.rng, len(index), self.width)
            return self._match(noise, components[index], self.pool.one_hot(index))

        matching = self.optimise(network, 2 * steps, match)[1]
        noise = truncated_normal(self.rng, len(components), self.width)
        everyone = F.one_hot(self.pool.y, self.pool.classes).float()
        with torch.no_grad():
            arrived = torch.cat(
                [sampler.flow(a, b, TEACHER_STEPS) for a, b in zip(noise.split(1000), everyone.split(1000), strict=True)]
            )
        done, loss, interrupted = self.optimise(
            network, steps, lambda _, index: self._match(noise[index], arrived[index], everyone[index]), shown=True
        )
        return {
            "iterations_done": done, "interrupted": interrupted, "final_loss": loss, "matching_loss": matching,
            "painting_loss": painting,
        }  # fmt: skip

    @torch.no_grad()
    def _components(self) -> Tensor:
        flat = self.pool.x(slice(None)).flatten(1)
        mean = flat.mean(0)
        covariance = (flat - mean).T @ (flat - mean) / len(flat)
        values, vectors = torch.linalg.eigh(covariance)
        top = vectors[:, -self.width :].flip(1)
        # One scale for all: each component keeps its share, so that the flow heeds the large ones first.
        scale = values.flip(0)[: self.width].clamp_min(1e-8).pow(0.25)
        self.sampler.mean.copy_(mean)
        self.sampler.basis.copy_((top * scale).T)
        return (flat - mean) @ (top / scale)

    def _match(self, noise: Tensor, image: Tensor, label: Tensor) -> Tensor:
        t = torch.rand(len(noise), 1, generator=self.rng)
        return F.mse_loss(self.sampler.velocity((1 - t) * noise + t * image, t, label), image - noise)


class _Holder(nn.Module):
    """One parameter as a module."""

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.parameter = parameter


def _drawn(logits: Tensor, x: Tensor) -> Tensor:
    """Return the cross-entropy of pixels: tanh(l) = 2 sigmoid(2 l) - 1."""
    return F.binary_cross_entropy_with_logits(2 * logits, ((x + 1) / 2).clamp(0, 1))
