"""P-SSL's source (arXiv 2204.12833): the generator conditioned on what a foundation classifier sees in the site's images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mpssl_fed.config.learning import Method
from mpssl_fed.generators.base import Generator
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.method.sources import Random, Task
from mpssl_fed.models import Classifier


class PseudoLabel(Random):
    """G(z, p) for random z and rows p of foundation probabilities, one a labelled image, read once a run.

    Until :meth:`prepare` has read them the source has no images. Under differential privacy the rows come from one noised
    release instead.
    """

    def __init__(self, method: Method, task: Task, generator: Generator | None, foundation: nn.Module) -> None:
        super().__init__(method, task, generator)
        self.foundation = foundation.to(task.device)
        self.probabilities: Tensor | None = None

    def prepare(self, classifier: Classifier, private: PrivateData) -> None:
        """Read the foundation probabilities [m, K_F] to draw from, once a run."""
        if self.probabilities is None:
            self._set(private.foundation_labels(self.foundation))

    def rows(self) -> Tensor:
        """Return what is drawn from, which no task class changes."""
        if self.probabilities is None:
            return super().rows()
        mean = self.probabilities.double().cpu().mean(0)
        return (mean / mean.sum()).expand(len(self.task.classes), -1)

    @torch.no_grad()
    def random(self, n: int, rng: torch.Generator) -> Tensor:
        """Return G(z, p) for n random z and n rows drawn uniformly."""
        assert self.probabilities is not None
        index = torch.randint(len(self.probabilities), (n,), generator=rng).to(self.task.device)
        return self.generate(self.generator.sample_z(n, rng).to(self.task.dtype), self.probabilities[index])

    def state(self) -> dict[str, Tensor]:
        """Return the buffer and the rows."""
        return super().state() | ({} if self.probabilities is None else {"rows": self.probabilities.cpu().clone()})

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        super().load(state)
        if "rows" in state:
            self._set(state["rows"])

    def _set(self, probabilities: Tensor) -> None:
        self.probabilities = probabilities.to(self.task.device, self.task.dtype)
