"""Vectors of single units (images or subjects), clipped and summed with bounded memory: gradients and mean features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.method.supervised import supervised_loss
from mpssl_fed.models import Classifier, Params
from mpssl_fed.privacy.units import clipping, layers
from mpssl_fed.privacy.units.places import Known, Parts, any_weights, beside_nan, full, places

Unit = Literal["image", "subject"]
Backend = Literal["layers", "vmap", "loop"]
Load = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Image numbers [m] -> (what the classifier sees [m, C, S, S], labels [m])."""

Copies = Callable[[int], tuple[Tensor, Tensor]]
"""m -> the same for m copies of one public image, seen alike."""

Vector = Callable[[Params, Tensor, Tensor], Tensor]
"""(psi, what the classifier sees [m, C, S, S], labels [m]) -> [m, ...], each row from its own image alone."""

BYTES = 1 << 25  # gradients of one vmap call; beyond it, memory traffic costs more than the calls it saves
HELD = 1 << 22  # the same by formulas, where a pass may be of more images than gradients are held of
LARGE = 8  # images of such a pass on a CPU where one gradient takes HELD: more save nothing, and the last is filled up
FORWARD = 32  # images of one forward pass: more save little time, and the last pass is filled up

_networks: Known = {}  # of the process: what depends on the network alone


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
class Speed:
    """How fast releases are computed, and in how much memory; no number of it touches a guarantee.

    max_physical_batch: images in memory at once; backend: how gradients of single units are taken: by the formulas of layers, where
    all that are trained have one and else by vmap, by vmap, or one after the other.
    """

    max_physical_batch: int = 32
    backend: Backend = "layers"

    def __post_init__(self) -> None:
        if self.max_physical_batch < 1:
            raise ValueError(f"max_physical_batch={self.max_physical_batch}: want 1 or more")


@dataclass(frozen=True)
class PerUnit:
    """How units are taken: images one at a time or, but for the backend ``loop``, in calls of one size; a subject always alone.

    together: images a call takes at most, beside what ``max_physical_batch`` and the constants above allow and what is computed
    alike in every place (see :mod:`~mpssl_fed.privacy.units.places`). So a unit's vector follows from the unit alone, bit by bit. A
    subject's gradient is the plain gradient of the mean loss of its images, in slices of ``max_physical_batch``.
    loss_weights: of each class [K] in that loss, public.
    """

    classifier: Classifier
    load: Load
    copies: Copies
    unit: Unit
    backend: Backend
    max_physical_batch: int
    together: int
    loss_weights: Tensor | None = None
    _views: Known = field(default_factory=dict, repr=False, compare=False)

    def gradients(self, theta: Params, keys: Sequence[str], batch: Sequence[Tensor], bound: float) -> list[Tensor]:
        """Return the clipped sum, a float64 tensor a key, of the units' gradients of mean cross-entropy at theta.

        batch: the image numbers of each unit drawn; it may be empty. bound: L2 norm that a unit's gradient, over all
        ``keys`` together, is clipped to.
        """
        theta = {name: p.detach() for name, p in theta.items()}
        total = [clipping.zero_sum(theta[key]) for key in keys]
        for part in self._unit_gradients(theta, keys, batch):
            total = clipping.clip_and_sum(part, bound, total)
            del part  # before the next is made
        return total

    @torch.no_grad()
    def means(
        self, name: str, vector: Vector, psi: Params, batch: Sequence[Tensor], bound: float, tried: Vector | None = None
    ) -> Tensor:
        """Return the clipped sum [...], float64, of the units' vectors at psi; a unit's is the mean of its images'.

        name: of ``vector``; tried: what decides how many images a call takes, where ``vector`` hides small differences.
        """
        psi = {key: p.detach() for key, p in psi.items()}
        head, side = self.classifier.head.weight, self.classifier.size
        blank = torch.zeros(1, self.classifier.channels, side, side).to(head)
        total = [clipping.zero_sum(vector(psi, blank, torch.zeros(1, dtype=torch.int64, device=head.device))[0])]
        for part in self._unit_means(name, vector, psi, batch, tried or vector):
            total = clipping.clip_and_sum([part], bound, total)
        return total[0]

    def _unit_gradients(self, theta: Params, keys: Sequence[str], batch: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Yield, for some units at a time, their gradients: a tensor [m, ...] a key."""
        backend = "loop" if self.unit == "subject" else self._backend(keys)
        each, most = self._by_layers if backend == "layers" else self._by_vmap, self._most(_size(theta, keys), backend)
        most = self._places(("features and logits",), most, self._features_and_logits)
        m = self._places(
            ("gradient", backend, *keys, *([] if self.loss_weights is None else ["weighted"])),
            most,
            lambda x, y: each(any_weights(self.classifier), keys, x, y),
        )
        if m == 1:
            yield from (self._alone(theta, keys, self._slices(unit)) for unit in batch)
            return
        for index, n in full(batch, m):
            left = n
            for part in each(theta, keys, *self.load(index)):
                if left > 0:
                    yield [gradient[:left] for gradient in part]
                left -= len(part[0])
                del part

    def _most(self, size: int, backend: Backend) -> int:
        """Return how many images one call may take, before it is tried out; ``size``: bytes of one gradient."""
        if backend == "vmap":
            return BYTES // max(1, size)
        if backend == "loop":
            return 1
        large = size >= HELD and self.classifier.head.weight.device.type == "cpu"
        return LARGE if large else self.max_physical_batch

    def _backend(self, keys: Sequence[str]) -> Backend:
        """Return what is asked for; vmap where a network is not one for formulas, which is tried out once."""
        if self.backend != "layers":
            return self.backend
        key = ("formulas", *self._network, *keys)
        if key not in _networks:
            _networks[key] = int(layers.known(self.classifier, keys) and self._formulas_hold(keys))
        return "layers" if _networks[key] else "vmap"

    def _formulas_hold(self, keys: Sequence[str]) -> bool:
        """Return whether formulas lead to the gradients of one backward pass an image, at random weights and images.

        They would not where a layer writes over what came out of another, or uses a weight that is another layer's.
        """
        rng, side = torch.Generator().manual_seed(0), self.classifier.size
        x = torch.randn(2, self.classifier.channels, side, side, generator=rng).to(self.classifier.head.weight)
        y = torch.tensor([0, len(self.classifier.classes) - 1], device=x.device)
        theta = any_weights(self.classifier)
        try:
            found = [torch.cat(parts) for parts in zip(*self._by_layers(theta, keys, x, y), strict=True)]
        except (RuntimeError, LookupError, ValueError, TypeError):  # written over, not passed, or passed in another way
            return False
        for i in range(len(x)):
            expected = self._alone(theta, keys, [(x[i : i + 1], y[i : i + 1], 1.0)])
            whole = torch.stack([gradient.norm() for gradient in expected]).norm()
            for mine, other in zip(found, expected, strict=True):
                if not (mine[i] - other[0]).norm() <= 1e-2 * other.norm() + 1e-5 * whole:
                    return False
        return True

    def _alone(self, theta: Params, keys: Sequence[str], slices: Iterable[tuple[Tensor, Tensor, float]]) -> list[Tensor]:
        """Return the gradient [1, ...] a key of one unit."""
        body = _reaches_body(keys)
        wanted = {key: theta[key].detach().requires_grad_() for key in keys}
        gradients: list[Tensor] = []
        for x, y, share in slices:
            loss = self._loss(theta | wanted, self._seen(theta, x, body), y, body) * (share * len(y))
            found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
            gradients = [sum_ + g for sum_, g in zip(gradients, found, strict=True)] if gradients else list(found)
        return [g.unsqueeze(0) for g in gradients]

    def _features_and_logits(self, x: Tensor, _: Tensor) -> Parts:
        """Return [m, d + 8 K] at random weights. The gradient of a trial hides the last bits of its few logits, which weights that
        are chosen bring out; so these are looked at themselves, of features of eight sizes."""
        theta = any_weights(self.classifier)
        head = {name.removeprefix("head."): p for name, p in theta.items() if name.startswith("head.")}
        with torch.no_grad():
            features = self.classifier.features(theta, x)
            logits = [functional_call(self.classifier.head, head, (features * (1 + k / 8),)) for k in range(8)]
            return [[torch.cat([features, *logits], 1)]]

    def _by_layers(self, theta: Params, keys: Sequence[str], x: Tensor, y: Tensor) -> Iterator[list[Tensor]]:
        """Yield the gradients of m images, some at a time, by the formulas of layers."""
        body = _reaches_body(keys)
        seen = self._seen(theta, x, body)
        some = max(1, HELD // max(1, _size(theta, keys)))
        held = max(d for d in range(1, len(y) + 1) if len(y) % d == 0 and d <= some)
        yield from layers.gradients(self.classifier, keys, lambda: self._loss(theta, seen, y, body) * len(y), held)

    def _by_vmap(self, theta: Params, keys: Sequence[str], x: Tensor, y: Tensor) -> Iterator[list[Tensor]]:
        """Yield the gradients of m images, all at once."""
        body = _reaches_body(keys)
        wanted = {key: theta[key] for key in keys}
        each = vmap(grad(lambda p, s, t: self._loss(theta | p, s[None], t[None], body)), in_dims=(None, 0, 0))
        yield list(each(wanted, self._seen(theta, x, body), y).values())

    def _unit_means(self, name: str, vector: Vector, psi: Params, batch: Sequence[Tensor], tried: Vector) -> Iterator[Tensor]:
        """Yield, for some units at a time, their vectors [m, ...]."""
        m = self._places(("mean", name), FORWARD, lambda x, y: [[tried(any_weights(self.classifier), x, y)]])
        if m > 1:
            yield from (vector(psi, *self.load(index))[:n] for index, n in full(batch, m))
            return
        for unit in batch:
            yield torch.stack([vector(psi, x, y).sum(0) * share for x, y, share in self._slices(unit)]).sum(0)[None]

    def _loss(self, theta: Params, seen: Tensor, y: Tensor, body: bool) -> Tensor:
        if body:
            return supervised_loss(self.classifier.logits(theta, seen), y, self.loss_weights)
        head = {name.removeprefix("head."): p for name, p in theta.items() if name.startswith("head.")}
        return supervised_loss(functional_call(self.classifier.head, head, (seen,)), y, self.loss_weights)

    def _seen(self, theta: Params, x: Tensor, body: bool) -> Tensor:
        """Return what the loss starts from: the image, or its feature where the body's gradient is not wanted."""
        with torch.no_grad():
            return x if body else self.classifier.features(theta, x)

    def _places(self, what: tuple[str, ...], most: int, of_copies: Callable[[Tensor, Tensor], Parts]) -> int:
        """Return how many images one call takes: of subjects, one."""
        if self.unit == "subject":
            return 1
        m = places(self._views, "view", min(most, self.max_physical_batch, self.together), lambda m: [self.copies(m)[:1]])
        key = (*self._network, *what)
        if m > 1 and places(_networks, ("mixed", *key), 2, lambda m: beside_nan(*self.copies(m), of_copies)) == 1:
            return 1
        return places(_networks, key, m, lambda m: of_copies(*self.copies(m)))

    @cached_property
    def _network(self) -> tuple[str, str, str]:
        weight = self.classifier.head.weight
        return json.dumps(self.classifier.architecture()), str(weight.device), str(weight.dtype)

    def _slices(self, unit: Tensor) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield (x, y, an image's share of its unit) for at most ``max_physical_batch`` images at a time."""
        for index in torch.split(unit, self.max_physical_batch):
            yield *self.load(index), 1 / len(unit)


def _reaches_body(keys: Sequence[str]) -> bool:
    return any(key.startswith("body.") for key in keys)


def _size(theta: Params, keys: Sequence[str]) -> int:
    """Return the bytes of one gradient."""
    return sum(theta[key].numel() * theta[key].element_size() for key in keys)
