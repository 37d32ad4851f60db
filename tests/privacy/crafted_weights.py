"""Weights that a hostile server might send. An attack found later is one line more in :data:`CASES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor

from mpssl_fed.models import Classifier, Params
from tests.privacy.release_cases import classifier

Edit = Callable[[Params, Tensor], None]
"""(parameters, changed in place; features [n, d] of the images at the honest weights, which she may have guessed)."""


def fill(pattern: str, value: float) -> Edit:
    return lambda theta, _: [p.fill_(value) for name, p in theta.items() if fnmatch(name, pattern)] and None


def times(pattern: str, value: float) -> Edit:
    return lambda theta, _: [p.mul_(value) for name, p in theta.items() if fnmatch(name, pattern)] and None


def bias(*values: float) -> Edit:
    """Head biases of the first classes; the others stay far below them, where two or more are given."""

    def edit(theta: Params, _: Tensor) -> None:
        theta["head.bias"].fill_(-1e4 if len(values) > 1 else 0.0)
        theta["head.bias"][: len(values)] = torch.tensor(values)

    return edit


def magnitudes(pattern: str, low: float, high: float) -> Edit:
    """Signs as they are, sizes from 10^low to 10^high."""

    def edit(theta: Params, _: Tensor) -> None:
        rng = torch.Generator().manual_seed(5)
        for name, p in theta.items():
            if fnmatch(name, pattern):
                exponents = low + (high - low) * torch.rand(p.shape, generator=rng, dtype=torch.float64)
                p.copy_(torch.sign(p + 1e-3).double() * 10**exponents)

    return edit


def one_entry(pattern: str, value: float) -> Edit:
    return lambda theta, _: [p.view(-1)[0].fill_(value) for name, p in theta.items() if fnmatch(name, pattern)] and None


def amplified(size: float, target: int = 6) -> Edit:
    """Two classes whose logits differ by a rounding error of the target's, times ``size``: the last bit decides its gradient."""

    def edit(theta: Params, features: Tensor) -> None:
        f = features[target].double()
        v = torch.randn(len(f), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        v -= (v @ f) / (f @ f) * f
        theta["head.weight"].zero_()
        theta["head.weight"][0], theta["head.weight"][1] = (v * size).float(), (-v * size).float()
        theta["head.bias"].fill_(-1e30)
        theta["head.bias"][:2] = 0

    return edit


def both(*edits: Edit) -> Edit:
    return lambda theta, features: [edit(theta, features) for edit in edits] and None


@dataclass(frozen=True)
class Crafted:
    """name; the model; what is done to its parameters; options of the model."""

    name: str
    model: str
    edit: Edit
    options: tuple[tuple[str, Any], ...] = ()

    def build(self, x: Tensor) -> Classifier:
        """Return the model with these weights; x [n, C, S, S]: the images of the site."""
        model = classifier(self.model, x.shape[-1], **dict(self.options))
        with torch.no_grad():
            features = model.features(model.theta(), x)
            self.edit(dict(model.named_parameters()), features)
        return model


HEAD_ONLY = (("trainable", "head"),)
SATURATED = [(55.0, 0.0), (88.0, 0.0), (103.0, 0.0), (150.0, 0.0), (1e4, 0.0), (1e30, 0.0), (3e38, -3e38), (0.0, 0.0), (1e38,)]
SIZES = (1e-45, 1e-38, 1e-23, 1e-8, 1e8, 1e19, 1e30, 3e38)

CASES = [
    *(Crafted(f"linear, bias {values}", "pixels", both(fill("head.weight", 0.0), bias(*values))) for values in SATURATED),
    *(Crafted(f"linear, amplified {size:g}", "pixels", amplified(size)) for size in (1e3, 1e6, 1e7, 1e9, 1e20)),
    *(Crafted(f"linear, all {size:g}", "pixels", fill("head.*", size)) for size in SIZES),
    *(Crafted(f"network, all times {size:g}", "small-cnn", times("*", size)) for size in SIZES),
    *(Crafted(f"network, head times {size:g}", "small-cnn", times("head.weight", size)) for size in (1e-30, 1e5, 1e30)),
    *(
        Crafted(f"network, norm scales {size:g}", "small-cnn", fill("body.*norm*.weight", size))
        for size in (0.0, 1e-30, 1e19, 1e38)
    ),
    *(Crafted(f"network, amplified {size:g}", "small-cnn", amplified(size)) for size in (1e5, 1e7, 1e9)),
    *(Crafted(f"frozen body, amplified {size:g}", "small-cnn", amplified(size), HEAD_ONLY) for size in (1e5, 1e7)),
    Crafted("network, zeros", "small-cnn", fill("*", 0.0)),
    Crafted("network, dead units", "small-cnn", fill("body.*norm*.bias", -1e9)),
    Crafted("network, biases 1e19", "small-cnn", fill("body.*norm*.bias", 1e19)),
    Crafted("network, all magnitudes", "small-cnn", magnitudes("*", -44, 38)),
    Crafted("network, magnitudes about 1", "small-cnn", magnitudes("*", -6, 6)),
    Crafted("network, saturated", "small-cnn", both(times("head.weight", 1e-30), bias(60.0, 0.0))),
    Crafted("network, one NaN", "small-cnn", one_entry("body.stem.weight", float("nan"))),
    Crafted("network, one infinity", "small-cnn", one_entry("head.weight", float("inf"))),
    Crafted("frozen body, saturated", "small-cnn", both(times("head.weight", 0.0), bias(70.0, 0.0)), HEAD_ONLY),
    Crafted("features of hog, head 1e25", "hog", times("head.*", 1e25)),
]
