"""Weights within what a site takes, crafted to saturate, to blow up, to pass one image on, or to lie at the clip itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mpssl_fed.deployment import wire
from tests.privacy.crafted_weights import CASES, Crafted
from tests.real.hostile.messages import entry

Edit = Callable[[wire.Arrays, np.ndarray], wire.Arrays]
"""(initial weights, the site's images [n, 1, 32, 32], which she may have guessed) -> weights."""


def _all(edit: Callable[[np.ndarray], np.ndarray]) -> Edit:
    return lambda arrays, _: {key: edit(value).astype(np.float32) for key, value in arrays.items()}


def _full(weight: float, bias: float) -> Edit:
    return lambda arrays, _: {key: np.full_like(value, bias if value.ndim == 1 else weight) for key, value in arrays.items()}


def pooled(images: np.ndarray) -> np.ndarray:
    """Return what the model `pixels` sees of images [n, 1, 32, 32]: [n, 256]."""
    return images.reshape(-1, 16, 2, 16, 2).mean((2, 4)).reshape(len(images), -1)


def _head(weight: Callable[[np.ndarray], np.ndarray], *bias: float) -> Edit:
    """Head weights [K, d] from the images as rows [n, d]; biases of the first classes, those of the others -25."""

    def edit(arrays: wire.Arrays, images: np.ndarray) -> wire.Arrays:
        shape = arrays["head.weight"].shape
        rows = np.zeros(shape, np.float32)
        found = weight(pooled(images))
        rows[: len(found)] = found[: len(rows)]
        biases = np.full(shape[0], -25 if bias else 0, np.float32)
        biases[: len(bias)] = bias
        return arrays | {"head.weight": rows, "head.bias": biases}

    return edit


def _matched(x: np.ndarray, size: float) -> np.ndarray:
    """Return two rows that tell the first image from all others: its pixels and their opposite."""
    row = size * x[0] / np.abs(x[0]).max()
    return np.stack([row, -row])


def _other(key: str, edit: Callable[[np.ndarray], np.ndarray]) -> Edit:
    return lambda arrays, _: {name: edit(value).astype(np.float32) if key in name else value for name, value in arrays.items()}


def _signs(x: np.ndarray) -> np.ndarray:
    return np.where(np.arange(x.size).reshape(x.shape) % 2, -1, 1)


LINEAR: dict[str, Edit] = {
    "zeros": _full(0, 0),
    "minus zero": _full(-0.0, -0.0),
    "denormals": _full(1e-45, -1e-45),
    "the least normal number": _full(1.18e-38, 1.18e-38),
    "squares that vanish": _full(1e-23, 0),
    "one class certain": _head(lambda x: 0 * x, 25.0, 0.0),
    "one class certain, all": _head(lambda x: 0 * x, 25.0),
    "one class as good as certain": _head(lambda x: 0 * x, 25.0, -15.0),
    "two classes and none else": _head(lambda x: 0 * x, 0.0, 0.0),
    "the first image's pixels": _head(lambda x: _matched(x, 1.0)),
    "the first image's pixels, large": _head(lambda x: _matched(x, 100.0)),
    "the first image's pixels, saturated": _head(lambda x: _matched(x, 990.0)),
    "the first image's pixels, tiny": _head(lambda x: _matched(x, 1e-30)),
    "a row an image": _head(lambda x: x[:10]),
    "all images but one": _head(lambda x: np.stack([x[1:].mean(0), -x[1:].mean(0)])),
    "one pixel, large": _head(lambda x: 990 * np.eye(10, x.shape[1])),
    "one pixel, tiny": _head(lambda x: 1e-40 * np.eye(10, x.shape[1])),
    "by turns, large": _all(lambda x: _signs(x) * (24 if x.ndim == 1 else 990)),
    "all magnitudes": _all(lambda x: np.resize(10.0 ** np.arange(-44, 2), x.shape)),
    "one entry of 990": lambda arrays, _: arrays | {"head.weight": entry(990)(arrays["head.weight"])},
    "one entry that is denormal": lambda arrays, _: arrays | {"head.weight": entry(1e-42)(arrays["head.weight"])},
}  # fmt: skip
"""For raw pixels, where a release is the image itself but for clip and noise."""

NETWORK: dict[str, Edit] = {
    "zeros": _full(0, 0),
    "denormals": _all(lambda x: np.sign(x) * 1e-42),
    "times 1e-20": _all(lambda x: x * 1e-20),
    "times 10": _all(lambda x: np.clip(x * 10, -20, 20)),
    "by turns, large": _all(lambda x: _signs(x) * (24 if x.ndim == 1 else 900)),
    "norm scales 0": _other("norm", lambda x: x * 0),
    "norm scales 999": _other("norm", lambda x: x * 0 + 999),
    "norm scales 1e-30": _other("norm", lambda x: x * 0 + 1e-30),
    "dead units": _other("norm", lambda x: x * 0 - 999),
    "head of 999": _other("head.weight", lambda x: _signs(x) * 999),
    "head of 1e-38": _other("head.weight", lambda x: x * 0 + 1e-38),
    "gradients that overflow": _all(lambda x: np.full_like(x, 24 if x.ndim == 1 else 999)),
    "bodies that say nothing": _other("body", lambda x: x * 0),
}  # fmt: skip


def unbounded(crafted: Crafted) -> tuple[dict[str, Any], wire.Arrays]:
    """Return what a message asks, and its arrays, for a case of the releases' own tests: mostly far beyond what a site takes."""
    changes = {"model.name": crafted.model} | {f"model.{key}": value for key, value in crafted.options}
    state = crafted.build(torch.zeros(7, 1, 32, 32) + torch.rand(7, 1, 32, 32, generator=torch.Generator().manual_seed(3)))
    return changes, {key: value.numpy() for key, value in state.shared_state().items()}


def beyond(arrays: wire.Arrays) -> bool:
    """Whether a site has to refuse these weights: NaN, infinity, an entry above 1,000, a bias of the head above 25."""
    return any(not (np.abs(value) <= (25 if key == "head.bias" else 1000)).all() for key, value in arrays.items())


RELEASES = {case.name: case for case in CASES}
