"""P-SSL's source (arXiv 2204.12833): the generator conditioned on what a foundation classifier sees in the site's images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mpssl_fed.config.learning import Method
from mpssl_fed.generators.base import Generator
from mpssl_fed.method.sources import Random, Task


class PseudoLabel(Random):
    """G(z, p) for random z and rows p of foundation probabilities, one a labelled image, read once a run.

    Until :meth:`set_rows` is called the source has no images; :attr:`rows` tells. Under differential privacy the rows
    come from one noised release instead.
    """

    def __init__(self, method: Method, task: Task, generator: Generator | None, foundation: nn.Module) -> None:
        super().__init__(method, task, generator)
        self.foundation = foundation.to(task.device)
        self.rows: Tensor | None = None

    def set_rows(self, rows: Tensor) -> None:
        """Set the foundation probabilities [m, K_F] to draw from."""
        self.rows = rows.to(self.task.device, self.task.dtype)

    @torch.no_grad()
    def random(self, n: int, rng: torch.Generator) -> Tensor:
        """Return G(z, p) for n random z and n rows drawn uniformly."""
        assert self.rows is not None
        index = torch.randint(len(self.rows), (n,), generator=rng).to(self.task.device)
        return self.generate(self.generator.sample_z(n, rng).to(self.task.dtype), self.rows[index])

    def state(self) -> dict[str, Tensor]:
        """Return the buffer and the rows."""
        return super().state() | ({} if self.rows is None else {"rows": self.rows.cpu().clone()})

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        super().load(state)
        if "rows" in state:
            self.set_rows(state["rows"])
