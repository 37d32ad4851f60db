"""One small real run for all tests of this folder, and its test images as PNG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import mpssl_fed
from mpssl_fed.data.datasets import Images
from mpssl_fed.federation.server.evaluate import test_images as images_of
from mpssl_fed.trained import Trained, load_trained

RUN = {
    "data": {"name": "mnist-5k", "labels_per_class": 4, "test_limit": 150},
    "method": {"name": "base"},
    "federation": {"sites": 2, "rounds": 2, "local_steps": 10},
    "runtime": {"device": "cpu"},
}


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> mpssl_fed.Run:
    """A finished run on real digits."""
    return mpssl_fed.simulate(RUN, f"output.dir={tmp_path_factory.mktemp('trained') / 'run'}")


@pytest.fixture(scope="package")
def trained(run: mpssl_fed.Run) -> Trained:
    """Its classifier."""
    return load_trained(run.folder, "cpu")


@pytest.fixture(scope="package")
def held_out(run: mpssl_fed.Run) -> Images:
    """The images that its test accuracy was measured on."""
    return images_of(run.config)


@pytest.fixture(scope="package")
def folder(held_out: Images, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as ``CLASS/N.png``."""
    root = tmp_path_factory.mktemp("digits")
    for i, (x, y) in enumerate(zip(held_out.x, held_out.y, strict=True)):
        save(x, root / trained.classes[int(y)] / f"{i:03d}.png")
    return root


def save(x: Tensor, path: Path) -> Path:
    """Write uint8 [C, H, W] as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = x.numpy()
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path)
    return path
