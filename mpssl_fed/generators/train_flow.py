"""The few-step flow on renders of glyphs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.generators.diffusion import FewStepFlow
from mpssl_fed.generators.fit import Report, ink_loss
from mpssl_fed.generators.glyphs import GlyphBank
from mpssl_fed.generators.renders import truncated_normal
from mpssl_fed.generators.settings import SmallSettings
from mpssl_fed.generators.small_training import PoolTraining, weights_of

TEACHER_STEPS = 24


class FlowTraining(PoolTraining):
    """Principal components, the painter, a flow by matching (arXiv 2210.02747), then its network on its own straight pairs."""

    def __init__(self, sampler: FewStepFlow, bank: GlyphBank, settings: SmallSettings) -> None:
        super().__init__(bank, settings)
        self.sampler, self.width = sampler, len(sampler.basis)

    def train(self, report: Report) -> dict[str, Any]:
        """Train all stages and return a record of them; Ctrl-C ends the last one early."""
        sampler, steps = self.sampler, self.settings.iterations
        components = self._components()

        def paint(_: int, index: Tensor) -> Tensor:
            return ink_loss(sampler.paint(components[index]), self.pool.x(index))

        painting = self.stage(weights_of(sampler.draw), max(1, steps // 10), paint).loss
        sampler.draw.requires_grad_(False)
        network = weights_of(sampler.label, sampler.enter, sampler.blocks, sampler.leave)

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
