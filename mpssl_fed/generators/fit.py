"""The loop in which every glyph generator is trained: Adam, a schedule, an average of the weights, progress, Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Report = Callable[[int, int, float], None]
"""(iterations done, iterations in all, mean loss since the last report)."""


@dataclass(frozen=True)
class Course:
    """How a training goes. scale(step), step from 0, multiplies the learning rate; ema: share that the average keeps at a step."""

    steps: int
    learning_rate: float
    scale: Callable[[int], float]
    ema: float


@dataclass(frozen=True)
class Fitted:
    """``average``: of the weights, in their order; ``loss``: the mean of the last 50; ``interrupted``: by Ctrl-C."""

    average: list[Tensor]
    done: int
    loss: float
    interrupted: bool

    def record(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        return {"iterations_done": self.done, "interrupted": self.interrupted, "final_loss": self.loss}


def fit(weights: Sequence[Tensor], loss_of: Callable[[int], Tensor], course: Course, report: Report | None = None) -> Fitted:
    """Minimise ``loss_of(step)``, step from 1, and return the exponential average of ``weights`` with what was done.

    With ``report`` Ctrl-C after the first step ends the training early; else KeyboardInterrupt passes.
    """
    optimiser = torch.optim.Adam(weights, course.learning_rate, betas=(0.9, 0.99))
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, course.scale)
    average, losses, interrupted = [weight.detach().clone() for weight in weights], list[float](), False
    try:
        for done in range(1, course.steps + 1):
            loss = loss_of(done)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            rate.step()
            # A young average follows closely, so that a short run is not its random start.
            keep = min(course.ema, done / (done + 9))
            with torch.no_grad():
                torch._foreach_lerp_(average, list(weights), 1 - keep)
            losses.append(loss.item())
            if report and (done % 50 == 0 or done in (1, course.steps)):
                report(done, course.steps, _recent(losses))
    except KeyboardInterrupt:
        if not report or not losses:
            raise
        interrupted = True
    return Fitted(average, len(losses), _recent(losses), interrupted)


def ink_loss(logits: Tensor, x: Tensor) -> Tensor:
    """Return the cross-entropy between tanh(logits) [n, C, H, W] and grey images x [n, 1, H, W] in [-1, 1].

    By tanh(l) = 2 sigmoid(2 l) - 1.
    """
    return F.binary_cross_entropy_with_logits(2 * logits, ((x + 1) / 2).clamp(0, 1).expand_as(logits))


def _recent(losses: list[float]) -> float:
    return sum(losses[-50:]) / len(losses[-50:])
