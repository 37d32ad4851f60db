"""Vectors of single units (images or subjects), clipped and summed with bounded memory: gradients and mean features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.models import Classifier, Params
from mpssl_fed.privacy.clipping import clip_and_sum

Unit = Literal["image", "subject"]
Backend = Literal["vmap", "loop"]
Load = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Image numbers [m] -> (what the classifier sees [m, C, S, S], labels [m])."""

VMAP_BYTES = 1 << 25  # gradients of one vmap call; beyond it, memory traffic costs more than the calls it saves


def units_of(images: Images, unit: Unit) -> list[Tensor]:
    """Return each unit's image numbers: one a unit for ``image``, all of a subject's for ``subject``.

    UserError where subjects are asked for and the images name none.
    """
    if unit == "image":
        return list(torch.arange(len(images)).unsqueeze(1))
    if images.subjects is None:
        raise UserError("privacy.unit=subject, but the data set names no subjects; set data.subjects or privacy.unit=image")
    _, subject = np.unique(np.asarray(images.subjects, dtype=str), return_inverse=True)
    return [torch.from_numpy(np.flatnonzero(subject == s)) for s in range(subject.max(initial=-1) + 1)]


@dataclass(frozen=True)
class PerUnit:
    """How units are taken: one gradient at a time, or as many as ``max_physical_batch`` and :data:`VMAP_BYTES` allow.

    A subject is always taken alone: its gradient is the plain gradient of the mean loss of its images, in slices.
    """

    classifier: Classifier
    load: Load
    unit: Unit
    backend: Backend
    max_physical_batch: int

    def gradients(self, theta: Params, keys: Sequence[str], batch: Sequence[Tensor], bound: float) -> list[Tensor]:
        """Return the clipped sum, a tensor a key, of the units' gradients of mean cross-entropy at theta.

        batch: the image numbers of each unit drawn; it may be empty. bound: L2 norm that a unit's gradient, over all
        ``keys`` together, is clipped to.
        """
        theta = {name: p.detach() for name, p in theta.items()}
        total = [torch.zeros_like(theta[key]) for key in keys]
        for part in self._unit_gradients(theta, keys, batch):
            torch._foreach_add_(total, clip_and_sum(part, bound))
        return total

    @torch.no_grad()
    def means(self, vector: Callable[[Tensor, Tensor], Tensor], batch: Sequence[Tensor], bound: float) -> Tensor:
        """Return the clipped sum [...] of the units' vectors; a unit's is the mean of its images'.

        vector: (what the classifier sees [m, C, S, S], labels [m]) -> [m, ...], each row from its own image alone.
        """
        head, side = self.classifier.head.weight, self.classifier.size
        blank = torch.zeros(1, self.classifier.channels, side, side).to(head)
        total = torch.zeros_like(vector(blank, torch.zeros(1, dtype=torch.int64, device=head.device))[0])
        for units in self._parts(batch, self.max_physical_batch):
            found = [(vector(x, y), share) for x, y, share in self._slices(units)]
            rows = found[0][0] if self.unit == "image" else torch.stack([part.sum(0) * share for part, share in found]).sum(0)[None]
            total = total + clip_and_sum([rows], bound)[0]
        return total

    def _unit_gradients(self, theta: Params, keys: Sequence[str], batch: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Yield, for some units at a time, their gradients: a tensor [m, ...] a key."""
        wanted = {key: theta[key] for key in keys}
        body = any(key.startswith("body.") for key in keys)

        def loss(point: Params, seen: Tensor, y: Tensor) -> Tensor:
            if body:
                return F.cross_entropy(self.classifier.logits(theta | point, seen), y)
            head = {name: point.get(name, theta.get(name, p)) for name, p in self._head().items()}
            return F.cross_entropy(F.linear(seen, head["head.weight"], head["head.bias"]), y)

        def seen(x: Tensor) -> Tensor:
            """Return what the loss starts from: the image, or its feature where the body's gradient is not wanted."""
            with torch.no_grad():
                return x if body else self.classifier.features(theta, x)

        size = sum(p.numel() * p.element_size() for p in wanted.values())
        together = max(1, min(self.max_physical_batch, VMAP_BYTES // max(1, size))) if self.backend == "vmap" else 1
        for units in self._parts(batch, together):
            if len(units) > 1:
                x, y = self.load(torch.cat(list(units)))
                each = vmap(grad(lambda p, s, t: loss(p, s[None], t[None])), in_dims=(None, 0, 0))
                yield list(each(wanted, seen(x), y).values())
            else:
                leaves = {name: p.requires_grad_() for name, p in ((n, p.detach()) for n, p in wanted.items())}
                gradients: list[Tensor] = []
                for x, y, share in self._slices(units):
                    found = torch.autograd.grad(loss(leaves, seen(x), y) * (share * len(y)), list(leaves.values()))
                    gradients = [sum_ + g for sum_, g in zip(gradients, found, strict=True)] if gradients else list(found)
                yield [g.unsqueeze(0) for g in gradients]

    def _parts(self, batch: Sequence[Tensor], together: int) -> Iterator[Sequence[Tensor]]:
        """Yield the units in parts: ``together`` images, or one subject."""
        step = together if self.unit == "image" else 1
        return (batch[start : start + step] for start in range(0, len(batch), step))

    def _slices(self, units: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield (x, y, an image's share of its unit) for at most ``max_physical_batch`` images at a time."""
        share = 1 / len(units[0])
        for index in torch.cat(list(units)).split(self.max_physical_batch):
            yield *self.load(index), share

    def _head(self) -> Params:
        return {f"head.{name}": p for name, p in self.classifier.head.named_parameters()}
