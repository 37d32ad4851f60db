"""Where the unsupervised batch comes from: a frozen generator with random latents or chosen classes, or real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from mpssl_fed.method.lmo import InnerStep
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.method.selection import anti_oracle_rows, oracle_rows, relevance, sampled, selection_numbers, stratified
from mpssl_fed.method.views import Views
from mpssl_fed.models import Classifier
from mpssl_fed.registry import Registry
from mpssl_fed.seeds import seed_of, torch_rng

Streams = Callable[[str], torch.Generator]
"""Purpose -> the public random stream of this site and round for it."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Task:
    """What a source must know of the task: its classes, the shape of its images, how they are augmented; where it runs.

    weights: of each class in the synthetic batch, [K] on the CPU; shows: which task class a generator class shows, by name.
    """

    classes: tuple[str, ...]
    channels: int
    size: int
    seed: int
    views: Views
    weights: Tensor
    shows: Mapping[str, str] = field(default_factory=dict)
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32


@dataclass
class Cost:
    """Seconds spent in the generator and images that went through it, forward or back."""

    seconds: float = 0.0
    images: int = 0


class Source(Protocol):
    """A stream of images for the unsupervised loss. What a source does not need, it inherits from here."""

    cost: Cost

    def begin_round(self, streams: Streams) -> None:
        """Set the random streams of a round."""

    def prepare(self, classifier: Classifier, private: PrivateData) -> None:
        """Read what the source needs of the site, after :meth:`begin_round`, at the weights that the round starts from."""
        return

    def meta_step(self, t: int, inner: InnerStep) -> dict[str, float]:
        """Improve the source by how its images would move the classifier at step t, and return numbers for the log."""
        return {}

    def batch(self, step: int) -> Tensor:
        """Return the images [method.batch, C, S, S] of a step, without a graph."""

    def numbers(self) -> dict[str, float]:
        """Return what the site's owner may want to know of the source after a round; it does not leave the site."""
        return {}

    def samples(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return n images to show, with task labels where they have one; None where the source may not be shown."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Return what continues from round to round at the site."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        return


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


class Random(Source):
    """G at random z and a foundation label drawn uniformly. ``bank`` > 0: that many images are made once and drawn from."""

    def __init__(self, method: Method, task: Task, generator: Generator | None) -> None:
        if generator is None:
            raise UserError(f"method.source={method.source} needs a generator; generator.name names none")
        self.method, self.task, self.generator, self.cost = method, task, generator, Cost()
        self.relevant = relevance(generator.classes, task.classes, task.shows)
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

    def rows(self) -> Tensor:
        """Return the chance of each generator class given the task class, [K, K_F] float64."""
        foundation = len(self.generator.classes)
        return torch.full((len(self.task.classes), foundation), 1 / foundation, dtype=torch.float64)

    def numbers(self) -> dict[str, float]:
        """Return mass on relevant classes and perplexity of :meth:`rows`."""
        return selection_numbers(self.rows(), self.task.weights, self.relevant)

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


class Chosen(Random):
    """G at random z and a generator class drawn from the row of a task class, which follows the site's labels."""

    def __init__(self, method: Method, task: Task, generator: Generator | None, choose: Callable[[Tensor], Tensor]) -> None:
        super().__init__(method, task, generator)
        self.chosen = choose(self.relevant)

    @torch.no_grad()
    def random(self, n: int, rng: torch.Generator) -> Tensor:
        """Return G(z, y_F) for n random z, y by the task's weights and y_F from the row of y; in the order of y."""
        return self._drawn(stratified(self.task.weights, n, rng), rng)

    def rows(self) -> Tensor:
        """Return the rows that are drawn from."""
        return self.chosen

    def samples(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return n fresh images in class order with their task labels."""
        y = stratified(self.task.weights, n, self.rng)
        return self._drawn(y, self.rng), y

    def _drawn(self, y: Tensor, rng: torch.Generator) -> Tensor:
        label = F.one_hot(sampled(self.rows(), y, rng), len(self.generator.classes)).to(self.task.device, self.task.dtype)
        return self.generate(self.generator.sample_z(len(y), rng).to(self.task.dtype), label)


class Real(Source):
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


SOURCES.add("random")(lambda method, task, generator, _: Random(method, task, generator))
SOURCES.add("oracle")(lambda method, task, generator, _: Chosen(method, task, generator, oracle_rows))
SOURCES.add("anti-oracle")(lambda method, task, generator, _: Chosen(method, task, generator, anti_oracle_rows))
SOURCES.add("real")(lambda method, task, _, unlabeled: Real(method, task, unlabeled))
