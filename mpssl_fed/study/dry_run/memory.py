"""The memory that a training step takes, measured on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.method import Learner
from mpssl_fed.method.meta_optimised import MetaOptimised

DRAWN = 32
"""Latents that are really drawn; what more of them take is in proportion."""


def training_bytes(config: Config, learner: Learner, batch: int) -> float:
    """Return the bytes of weights, gradients and optimiser state, and of what the larger graph of a step keeps for its gradient."""
    classifier, method, source = learner.classifier, config.method, learner.source
    theta = sum(p.numel() for p in classifier.theta().values())
    moments = {"sgd": 0, "momentum": 1, "adamw": 2}[config.optim.name]
    weights = 4 * (entries(classifier) + (2 + moments) * theta)  # the start of the round and a gradient beside the moments
    shape = (classifier.channels, classifier.size, classifier.size)
    with torch.enable_grad():
        graphs = [_kept(lambda: classifier(torch.empty(batch, *shape, device="meta")))]
        if source is not None:
            graphs.append(_kept(lambda: classifier(torch.empty(2 * method.batch, *shape, device="meta"))))
        if isinstance(source, MetaOptimised):
            n = min(method.micro_batch or method.lmo_batch, method.lmo_batch)
            made = n if method.micro_batch is None else (method.micro_batch + 1) // 2
            few = min(made, DRAWN)
            draw = source.draw(few, torch.Generator().manual_seed(0))
            views = 3 * _kept(lambda: classifier(torch.empty(2 * n, *shape, device="meta", requires_grad=True)))
            drawn = _kept(lambda: source.from_latents(draw)) * made // few
            # the second derivative keeps the first's graph too; in slices the generator's comes after it
            graphs.append(drawn + views if method.micro_batch is None else max(drawn, views))
    return weights + max(graphs)


def _kept(forward: Callable[[], Tensor]) -> int:
    """Return the bytes that autograd keeps of a forward pass for its gradient."""
    sizes: dict[int, int] = {}
    held = []

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        return x

    with _saving(pack):
        held.append(forward())
    return sum(sizes.values())


@contextmanager
def _saving(pack: Callable[[Tensor], Tensor]) -> Iterator[None]:
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield


def entries(module: Any) -> int:
    """Return the number of parameters of a module; 0 of none."""
    return 0 if module is None else sum(p.numel() for p in module.parameters())
