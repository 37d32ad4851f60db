"""A pipeline's own sampling as a function with gradients: z is the noise it starts from, a soft label mixes class embeddings.

``diffusers`` runs its pipelines without gradients, draws noise as it goes and takes a class by its number. Here the noise levels
and their number are fixed, all noise comes from z, and activations are computed anew in the backward pass instead of kept.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mpssl_fed.generators.base import CUT, Generator

SPREAD = math.sqrt(1 - 2 * CUT * math.exp(-(CUT**2) / 2) / math.sqrt(2 * math.pi) / math.erf(CUT / math.sqrt(2)))
"""Standard deviation of N(0, 1) cut at two of its own, 0.88: z over it is noise of the strength that a network was trained on."""

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x [n, C, S, S], time []) -> the network's output [n, C, S, S]."""


class Schedule(Protocol):
    """The noise levels of a sampler, and how it goes from each to the next."""

    steps: int
    strength: float

    def advance(self, step: int, x: Tensor, noise: Tensor, denoise: Denoiser) -> Tensor:
        """Return x [n, C, S, S] at the level after ``step``; noise [n, C, S, S]: of variance 1, for samplers that add some."""


class Consistency:
    """Multistep consistency sampling (arXiv 2303.01469, algorithm 1) at the levels of a ``CMStochasticIterativeScheduler``."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.steps = scheduler, len(scheduler.timesteps)
        self.strength = float(scheduler.init_noise_sigma)
        self.times = scheduler.timesteps.tolist()

    def advance(self, step: int, x: Tensor, noise: Tensor, denoise: Denoiser) -> Tensor:
        """Return the clean image that the network sees in x, with noise of the next level put on it."""
        config, sigma, after = self.scheduler.config, self.scheduler.sigmas[step], self.scheduler.sigmas[step + 1]
        skip, out = self.scheduler.get_scalings_for_boundary_condition(sigma)
        seen = denoise(x / (sigma**2 + config.sigma_data**2) ** 0.5, torch.tensor(self.times[step], device=x.device))
        clean = out * seen + skip * x
        if config.clip_denoised:
            clean = clean.clamp(-1, 1)
        level = (after.clamp(config.sigma_min, config.sigma_max) ** 2 - config.sigma_min**2) ** 0.5
        noisy: Tensor = clean + level * config.s_noise * noise
        return noisy


class Implicit:
    """DDIM without noise on the way (arXiv 2010.02502, eta 0) at the levels of a ``DDIMScheduler``."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.steps = scheduler, len(scheduler.timesteps)
        self.strength = float(scheduler.init_noise_sigma)
        self.times = scheduler.timesteps.tolist()

    def advance(self, step: int, x: Tensor, noise: Tensor, denoise: Denoiser) -> Tensor:
        """Return x at the next level, along the noise that the network sees in it."""
        time = self.times[step]
        after: Tensor = self.scheduler.step(denoise(x, torch.tensor(time, device=x.device)), time, x, return_dict=False)[0]
        return after


class SoftEmbedding(nn.Module):
    """A mixture of class embeddings: label [n, K] -> label @ weight [n, d]; of a one-hot label what ``nn.Embedding`` gives."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, width))

    def forward(self, label: Tensor) -> Tensor:
        """Return the mixtures."""
        return label @ self.weight


class PipelineGenerator(Generator):
    """A frozen UNet with its sampler. A step that needs noise gets that of z with its pixels in another, fixed order."""

    def __init__(self, unet: Any, schedule: Schedule, classes: tuple[str, ...], truncation: float, said: str) -> None:
        """unet: a ``UNet2DModel`` that takes soft labels; said: what decides the images beside its weights and the classes."""
        super().__init__()
        self.name, self.classes, self.truncation, self.said = "diffusers", classes, truncation, said
        self.drawn, self.size = int(unet.config.in_channels), int(unet.config.sample_size)
        self.z_dim = self.drawn * self.size**2
        self.unet, self.schedule = unet, schedule
        orders = [torch.randperm(self.z_dim, generator=torch.Generator().manual_seed(step)) for step in range(schedule.steps)]
        self.register_buffer("orders", torch.stack([torch.arange(self.z_dim), *orders[1:]]))

    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        """Map z [n, z_dim] and soft_label [n, K] to images [n, 3, size, size] in [-1, 1]."""
        noise = z / SPREAD
        x = noise.reshape(-1, self.drawn, self.size, self.size) * self.schedule.strength
        for step in range(self.schedule.steps):
            given = (step, x, noise, soft_label)
            several = self.schedule.steps > 1 and torch.is_grad_enabled()
            x = checkpoint(self._step, *given, use_reentrant=False, preserve_rng_state=False) if several else self._step(*given)
        return x.clamp(-1, 1).expand(-1, 3, -1, -1)

    def train(self, mode: bool = True) -> PipelineGenerator:
        """Stay in eval mode whatever is asked: a frozen generator has nothing to train."""
        super().train(False)
        return self

    def state_hash(self) -> str:
        """Return a SHA-256 over weights, class names, noise levels and the network's settings, which are no state."""
        return hashlib.sha256(json.dumps([super().state_hash(), self.classes, self.said]).encode()).hexdigest()

    def _step(self, step: int, x: Tensor, noise: Tensor, soft_label: Tensor) -> Tensor:
        def denoise(x: Tensor, time: Tensor) -> Tensor:
            seen: Tensor = self.unet(x, time, class_labels=soft_label, return_dict=False)[0]
            return seen

        orders: Tensor = self.get_buffer("orders")
        return self.schedule.advance(step, x, noise[:, orders[(step + 1) % len(orders)]].view_as(x), denoise)
