"""MP-SSL's source: images of latents that latent meta-optimisation improves while the classifier learns."""

from __future__ import annotations

import math
from statistics import median

import torch
from torch import Tensor

from mpssl_fed.config.learning import Method
from mpssl_fed.errors import UserError
from mpssl_fed.generators.base import CUT, Generator
from mpssl_fed.method.closed_form import closed_form
from mpssl_fed.method.latent import LatentDraw, Latents
from mpssl_fed.method.lmo import InnerStep, MetaSettings, meta_gradient
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.method.selection import stratified
from mpssl_fed.method.sources import SOURCES, Random, Streams, Task
from mpssl_fed.models import Classifier
from mpssl_fed.seeds import torch_rng

SHOWN = 256  # latents that numbers() looks at
NEAR = 0.95  # of the bound: beyond it the mapper's derivative is below a tenth


class MetaOptimised(Random):
    """G(M_phi(z, y), I_xi(y)) for y by the task's weights; a share of each fresh batch may stay random.

    An LMO step every ``lmo_every`` steps, none while lambda is 0, since the look-ahead would not depend on the images.
    """

    def __init__(self, method: Method, task: Task, generator: Generator | None) -> None:
        super().__init__(method, task, generator)
        if method.bank:
            raise UserError(f"method.bank={method.bank}: only random sources have a bank; set it to 0")
        self.bound = CUT * self.generator.truncation
        self.latents = Latents(
            self.generator.z_dim, len(task.classes), len(self.generator.classes), self.bound, method.latent, task.seed
        ).to(task.device, task.dtype)
        self.settings = MetaSettings(method.gap.weight, method.gap.balance, method.micro_batch)

    def begin_round(self, streams: Streams) -> None:
        """Set the streams of latents, draws and latent meta-optimisation."""
        super().begin_round(streams)
        self.meta_rng, self.view_rng = streams("meta-latents"), streams("meta views")
        self.ratios: list[float] = []

    def prepare(self, classifier: Classifier, private: PrivateData) -> None:
        """Start the converter from the closed form, where ``latent.init`` says so, until its first LMO step."""
        if self.method.latent.init == "closed-form" and not self.latents.steps:
            with torch.no_grad():
                self.latents.converter.table.copy_(closed_form(self, classifier, private))

    def meta_step(self, t: int, inner: InnerStep) -> dict[str, float]:
        """Take one Adam step of phi and xi along the meta-gradient and return the gap."""
        if t % self.method.lmo_every or not inner.weight:
            return {}
        n = self.method.lmo_batch
        pairs = stratified(self.task.weights, n // 2, self.meta_rng).repeat_interleave(2)  # the gap needs two of a class
        draw = self.draw(n, self.meta_rng, torch.cat([pairs, pairs[-1:]])[:n])
        answer = meta_gradient(inner, self, draw, self.task.views.fixed_pair(n, self.view_rng), self.settings)
        self.latents.adam(answer.gradient)
        if not self.settings.gap_weight:
            return {}
        ratio = answer.ratio(self.latents.blocks()[-1])
        self.ratios += [ratio] if math.isfinite(ratio) else []
        return {"gap": answer.gap}

    @torch.no_grad()
    def fresh(self, n: int) -> Tensor:
        """Return n new images, ``random_share`` of them with random latents."""
        random = round(self.method.random_share * n)
        x = self.from_latents(self.draw(n - random, self.rng))
        return torch.cat([x, self.random(random, self.rng)]) if random else x

    def draw(self, n: int, rng: torch.Generator, y: Tensor | None = None) -> LatentDraw:
        """Return random inputs of n images; y in strata of the task's weights unless given."""
        if y is None:
            y = stratified(self.task.weights, n, rng)
        z = self.generator.sample_z(n, rng).to(self.task.dtype)
        uniform = torch.rand(n, len(self.generator.classes), generator=rng, dtype=torch.float64)
        return LatentDraw(z, y.to(self.task.device), uniform.to(self.task.device, self.task.dtype))

    def from_latents(self, draw: LatentDraw) -> Tensor:
        """Return x^ = G(M_phi(z, y), I_xi(y)) [n, C, S, S]; it carries the graph to phi and xi unless gradients are off."""
        return self.generate(self.latents.mapper(draw.z, draw.y), self.latents.converter(draw.y, draw.uniform))

    def rows(self) -> Tensor:
        """Return the converter's rows: the chances of a hard draw."""
        return self.latents.converter.table.detach().double().cpu().softmax(1)

    @torch.no_grad()
    def numbers(self) -> dict[str, float]:
        """Return mass and perplexity of the converter; where z' lies; the round's median of the meta ratio.

        beyond_bound: share of the coordinates of z' beyond 2 x truncation, near_bound: beyond 0.95 of that (0.012 of random z);
        meta_ratio: |grad L_val(theta')| / |grad L_gap| on the converter before they are balanced.
        """
        draw = self.draw(SHOWN, torch_rng(self.task.seed, "numbers"))
        share = self.latents.mapper(draw.z, draw.y).abs() / self.bound
        found = super().numbers() | {
            "beyond_bound": float((share > 1).double().mean()),
            "near_bound": float((share > NEAR).double().mean()),
        }
        return found | ({"meta_ratio": median(self.ratios)} if self.ratios else {})

    @torch.no_grad()
    def samples(self, n: int) -> tuple[Tensor, Tensor | None] | None:
        """Return n fresh images in class order with their task labels."""
        draw = self.draw(n, self.rng)
        return self.from_latents(draw), draw.y.cpu()

    def state(self) -> dict[str, Tensor]:
        """Return the buffer, the latents and their Adam moments."""
        return super().state() | {f"latents.{key}": value for key, value in self.latents.state().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        super().load(state)
        self.latents.load({key.removeprefix("latents."): v for key, v in state.items() if key.startswith("latents.")})


SOURCES.add("meta-optimised")(lambda method, task, generator, _: MetaOptimised(method, task, generator))
