"""Where the unsupervised batch comes from: a frozen generator with random or meta-optimised latents, or real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.config.learning import Method
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.generators.base import Generator, fit_images
from mpssl_fed.method.latent import Latents
from mpssl_fed.registry import Registry
from mpssl_fed.seeds import seed_of, torch_rng

Streams = Callable[[str], torch.Generator]
"""Purpose -> the public random stream of this site and round for it."""


@dataclass(frozen=True)
class Task:
    """What a source must know of the task: the shape of its images and the number of its classes; where it runs."""

    classes: int
    channels: int
    size: int
    seed: int
    device: torch.device
    dtype: torch.dtype = torch.float32


@dataclass
class Cost:
    """Seconds spent in the generator and images that went through it, forward or back."""

    seconds: float = 0.0
    images: int = 0


class Source(Protocol):
    """A stream of images for the unsupervised loss."""

    cost: Cost

    def begin_round(self, streams: Streams) -> None:
        """Set the random streams of a round."""

    def batch(self, step: int) -> Tensor:
        """Return the images [method.batch, C, S, S] of a step, without a graph."""

    def samples(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return n images to show, with task labels where they have one; None where the source may not be shown."""

    def state(self) -> dict[str, Tensor]:
        """Return what continues from round to round at the site."""

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""


Builder = Callable[[Method, Task, Generator | None, Images | None], Source]
SOURCES: Registry[Builder] = Registry("sources")
"""Name -> (method section, task, generator, real unlabeled images) -> source."""


@dataclass
class Buffer:
    """The latest ``capacity`` images, in 8 bits as real images are."""

    capacity: int
    images: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))

    def add(self, x: Tensor) -> None:
        """Append images x [n, C, S, S] in [-1, 1]; the oldest leave."""
        new = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        self.images = torch.cat([self.images.to(new.device), new])[-self.capacity :] if len(self.images) else new

    def draw(self, n: int, rng: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Return n of them as floats, without repetition where there are as many."""
        size = len(self.images)
        index = torch.randperm(size, generator=rng)[:n] if size >= n else torch.randint(size, (n,), generator=rng)
        return self.images[index.to(self.images.device)].to(dtype) / 127.5 - 1


class Random:
    """G at random z and a foundation label drawn uniformly. ``bank`` > 0: that many images are made once and drawn from."""

    def __init__(self, method: Method, task: Task, generator: Generator | None) -> None:
        if generator is None:
            raise UserError(f"method.source={method.source} needs a generator; generator.name names none")
        self.method, self.task, self.generator, self.cost = method, task, generator, Cost()
        self.buffer = Buffer(method.bank or method.buffer * method.batch)
        self._made_bank = False
        self.begin_round(lambda purpose: torch_rng(task.seed, "before any round", purpose))  # samples() of a loaded state

    def begin_round(self, streams: Streams) -> None:
        """Set the streams of latents and of draws."""
        self.rng, self.draw_rng = streams("latents"), streams("buffer")

    def batch(self, step: int) -> Tensor:
        """Return images from the buffer, which gets a fresh batch every ``refresh_every`` steps."""
        if self.method.bank:
            self._fill_bank()
        elif step % self.method.refresh_every == 0 or not len(self.buffer.images):
            self.buffer.add(self.fresh(self.method.batch))
        return self.buffer.draw(self.method.batch, self.draw_rng, self.task.dtype)

    @torch.no_grad()
    def fresh(self, n: int) -> Tensor:
        """Return n new images."""
        return self.random(n, self.rng)

    @torch.no_grad()
    def random(self, n: int, rng: torch.Generator) -> Tensor:
        """Return G(z, y_F) for n random z and uniform y_F as images of the task's shape."""
        foundation = len(self.generator.classes)
        label = F.one_hot(torch.randint(foundation, (n,), generator=rng), foundation).to(self.task.device, self.task.dtype)
        return self.generate(self.generator.sample_z(n, rng).to(self.task.dtype), label)

    def generate(self, z: Tensor, label: Tensor) -> Tensor:
        """Return G(z, label) in the task's shape [n, C, S, S]; differentiable; its time is counted."""
        start = perf_counter()
        x = fit_images(self.generator(z, label), self.task.channels, self.task.size)
        self.cost.seconds += perf_counter() - start
        self.cost.images += len(z)
        return x

    def samples(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return n fresh images."""
        return self.fresh(n), None

    def state(self) -> dict[str, Tensor]:
        """Return the buffer (a bank is made anew from its seed)."""
        return {} if self.method.bank else {"buffer": self.buffer.images.cpu().clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set the buffer."""
        if "buffer" in state:
            self.buffer.images = state["buffer"].to(self.task.device)

    def _fill_bank(self) -> None:
        if self._made_bank:
            return
        rng = torch.Generator().manual_seed(seed_of(self.task.seed, "bank"))
        for start in range(0, self.method.bank, self.method.batch):
            self.buffer.add(self.random(min(self.method.batch, self.method.bank - start), rng))
        self._made_bank = True


@dataclass(frozen=True)
class LatentDraw:
    """Random inputs of n images: z [n, z_dim], task labels y [n], uniform numbers [n, K_F] for the Gumbel noise."""

    z: Tensor
    y: Tensor
    uniform: Tensor

    def at(self, index: Tensor) -> LatentDraw:
        """Return the inputs of the images at ``index``."""
        here = index.to(self.z.device)
        return LatentDraw(self.z[here], self.y[here], self.uniform[here])


class MetaOptimised(Random):
    """G(M_phi(z, y), I_xi(y)) for y uniform over the task's classes; a share of each fresh batch may stay random."""

    def __init__(self, method: Method, task: Task, generator: Generator | None) -> None:
        super().__init__(method, task, generator)
        if method.bank:
            raise UserError(f"method.bank={method.bank}: only random sources have a bank; set it to 0")
        self.latents = Latents(
            self.generator.z_dim, task.classes, len(self.generator.classes), **method.latent.model_dump(), seed=task.seed
        ).to(task.device, task.dtype)

    def begin_round(self, streams: Streams) -> None:
        """Set the streams of latents, draws and latent meta-optimisation."""
        super().begin_round(streams)
        self.meta_rng = streams("meta-latents")

    @torch.no_grad()
    def fresh(self, n: int) -> Tensor:
        """Return n new images, ``random_share`` of them with random latents."""
        random = round(self.method.random_share * n)
        x = self.from_latents(self.draw(n - random, self.rng))
        return torch.cat([x, self.random(random, self.rng)]) if random else x

    def draw(self, n: int, rng: torch.Generator, y: Tensor | None = None) -> LatentDraw:
        """Return random inputs of n images; y uniform over the task's classes unless given."""
        if y is None:
            y = torch.randint(self.task.classes, (n,), generator=rng)
        z = self.generator.sample_z(n, rng).to(self.task.dtype)
        uniform = torch.rand(n, len(self.generator.classes), generator=rng, dtype=torch.float64)
        return LatentDraw(z, y.to(self.task.device), uniform.to(self.task.device, self.task.dtype))

    def from_latents(self, draw: LatentDraw) -> Tensor:
        """Return x^ = G(M_phi(z, y), I_xi(y)) [n, C, S, S]; it carries the graph to phi and xi unless gradients are off."""
        return self.generate(self.latents.mapper(draw.z, draw.y), self.latents.converter(draw.y, draw.uniform))

    @torch.no_grad()
    def samples(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return n fresh images in class order with their task labels."""
        y = torch.arange(n) * self.task.classes // n
        return self.from_latents(self.draw(n, self.rng, y)), y

    def state(self) -> dict[str, Tensor]:
        """Return the buffer, the latents and their Adam moments."""
        return super().state() | {f"latents.{key}": value for key, value in self.latents.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        super().load(state)
        self.latents.load({key.removeprefix("latents."): v for key, v in state.items() if key.startswith("latents.")})


class Real:
    """Real unlabeled images: a reference for studies on public data; no policy of a site allows it."""

    def __init__(self, method: Method, task: Task, unlabeled: Images | None) -> None:
        if unlabeled is None or not len(unlabeled):
            raise UserError(
                "method.source=real: this site has no unlabeled images; lower data.labels_per_class or take another source"
            )
        self.method, self.task, self.cost = method, task, Cost()
        self.images = unlabeled.x.to(task.device)

    def begin_round(self, streams: Streams) -> None:
        """Set the stream of draws."""
        self.draw_rng = streams("buffer")

    def batch(self, step: int) -> Tensor:
        """Return a batch of real images."""
        return Buffer(len(self.images), self.images).draw(self.method.batch, self.draw_rng, self.task.dtype)

    def samples(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return nothing: private images are not shown."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set nothing."""


SOURCES.add("random")(lambda method, task, generator, _: Random(method, task, generator))
SOURCES.add("meta-optimised")(lambda method, task, generator, _: MetaOptimised(method, task, generator))
SOURCES.add("real")(lambda method, task, _, unlabeled: Real(method, task, unlabeled))
