"""What the trainings of the two small generators share: a pool of renders and a stage of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpssl_fed.generators.fit import Course, Fitted, Report, fit
from mpssl_fed.generators.glyphs import GlyphBank
from mpssl_fed.generators.renders import RenderStream
from mpssl_fed.generators.settings import SmallSettings
from mpssl_fed.seeds import torch_rng


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


class PoolTraining:
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


def weights_of(*modules: nn.Module) -> list[Tensor]:
    """Return the parameters of the modules, one after the other."""
    return [weight for module in modules for weight in module.parameters()]
