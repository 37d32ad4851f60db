"""Weights that lie side by side in one piece of memory: all of them are copied, compared and summed in one call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

LINE = 16
"""Floats in 64 bytes. A tensor of torch's own begins at a multiple of so many, and kernels may round by where one begins."""


@dataclass(frozen=True)
class Layout:
    """Which float32 tensor lies where: names with shapes, in order, each from the next multiple of LINE on."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @staticmethod
    def of(weights: Mapping[str, Tensor]) -> Layout:
        """Return the layout of tensors like ``weights``, in sorted order of names."""
        if isinstance(weights, Block):
            return weights.layout
        return Layout(tuple((key, tuple(weights[key].shape)) for key in sorted(weights)))

    @property
    def size(self) -> int:
        """Floats in all, what lies between two tensors counted."""
        return self._places[1]

    @cached_property
    def has_variances(self) -> bool:
        """Whether running variances of BatchNorm are among them."""
        return any(key.endswith("running_var") for key, _ in self.shapes)

    def views(self, flat: Any) -> dict[str, Any]:
        """Return name -> its part of ``flat`` [size], a tensor or an array, in its shape."""
        if isinstance(flat, Tensor):  # one call each, where a slice in a new shape is three
            at = flat.storage_offset()
            return {key: flat.as_strided(shape, strides, at + start) for key, shape, strides, start in self._strided}
        return {key: flat[start:end].reshape(shape) for key, shape, start, end in self._places[0]}

    def vector(self, weights: Mapping[str, Tensor], kind: type[np.floating[Any]] = np.float64) -> np.ndarray:
        """Return float32 ``weights`` as one vector [size] of ``kind``, 0 between two tensors; it may be their own memory."""
        if isinstance(weights, Block) and weights.layout == self:
            return weights.flat.numpy().astype(kind, copy=False)
        flat = np.zeros(self.size, dtype=kind)
        for key, part in self.views(flat).items():
            part[...] = weights[key].numpy()
        return flat

    @cached_property
    def _strided(self) -> list[tuple[str, tuple[int, ...], tuple[int, ...], int]]:
        return [(key, shape, torch.empty(shape, device="meta").stride(), start) for key, shape, start, _ in self._places[0]]

    @cached_property
    def _places(self) -> tuple[list[tuple[str, tuple[int, ...], int, int]], int]:
        places, start = [], 0
        for key, shape in self.shapes:
            end = start + math.prod(shape)
            places.append((key, shape, start, end))
            start = -(-end // LINE) * LINE
        return places, start


class Block(dict[str, Tensor]):
    """Tensors by name, views of ``flat`` [layout.size] float32, which nobody changes once it is given out."""

    def __init__(self, layout: Layout, flat: Tensor) -> None:
        super().__init__(layout.views(flat))
        self.layout, self.flat = layout, flat

    @staticmethod
    def of(weights: Mapping[str, Tensor]) -> Block:
        """Return ``weights``, float32 on the CPU, side by side: themselves where they are a block."""
        if isinstance(weights, Block):
            return weights
        layout = Layout.of(weights)
        made = Block(layout, torch.zeros(layout.size))
        for key, part in made.items():
            part.copy_(weights[key])
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process as one array: torch would open a piece of shared memory for each tensor."""
        return _block, (self.layout, self.flat.numpy())


def _block(layout: Layout, flat: np.ndarray) -> Block:
    return Block(layout, torch.from_numpy(flat))
