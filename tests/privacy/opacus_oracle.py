"""Opacus' sum of clipped gradients, the reference of release (a); the benchmark of releases uses it too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from mpssl_fed.models import Params


@contextmanager
def no_addition_in_place() -> Iterator[None]:
    """Opacus' hooks fail on `out += identity` of torchvision's ResNet (opacus issue 828)."""
    original = BasicBlock.forward

    def forward(self: Any, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))

    BasicBlock.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        BasicBlock.forward = original  # type: ignore[method-assign]


class OpacusSums:
    """Sums of clipped gradients by Opacus' hooks or ghost clipping (``mode``), on ``model``, which stays wrapped until closed."""

    def __init__(self, model: nn.Module, bound: float, mode: str) -> None:
        self.model, self.mode = model, mode
        options: dict[str, Any] = {
            "noise_multiplier": 0.0,
            "max_grad_norm": bound,
            "expected_batch_size": 1,
            "loss_reduction": "mean",
        }
        sgd = torch.optim.SGD(model.parameters(), 0.1)
        if mode == "hooks":
            self.wrapped: Any = GradSampleModule(model)
            self.optimiser: Any = DPOptimizer(sgd, **options)
        else:
            self.wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=bound, use_ghost_clipping=True)
            self.optimiser = DPOptimizerFastGradientClipping(sgd, **options)
            self.criterion = DPLossFastGradientClipping(self.wrapped, self.optimiser, nn.CrossEntropyLoss())

    def __call__(self, x: Tensor, y: Tensor) -> Params:
        """Return the sum over a batch, keyed by parameter."""
        self.optimiser.zero_grad()
        if self.mode == "hooks":
            nn.functional.cross_entropy(self.wrapped(x), y).backward()
            self.optimiser.clip_and_accumulate()
        else:
            self.criterion(self.wrapped(x), y).backward()
            self.optimiser.accumulate()
        found = {name: p.summed_grad.detach() for name, p in self.model.named_parameters()}
        self.optimiser.zero_grad()
        return found

    def close(self) -> None:
        """Unwrap the model."""
        self.wrapped.remove_hooks()
