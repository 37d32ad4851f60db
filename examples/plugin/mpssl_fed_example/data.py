"""How far was this digit turned? The 5,000 MNIST digits that mpssl-fed brings, each turned by 0, 90, 180 or 270 degrees."""

from __future__ import annotations

import torch

from mpssl_fed.data.datasets import Dataset, Images, load_dataset

TURNS = ("0", "90", "180", "270")


def digit_turns(size: int | None = None) -> Dataset:
    """Return the task at ``size`` pixels (default 32). A reader takes those of root, size, download, variant, subjects it needs."""
    digits = load_dataset("mnist-5k", size=size)
    return Dataset("digit-turns", TURNS, _turned(digits.train, 0), _turned(digits.test, 1), flip=False)


def _turned(images: Images, seed: int) -> Images:
    y = torch.randint(len(TURNS), (len(images),), generator=torch.Generator().manual_seed(seed))
    x = torch.stack([torch.rot90(image, int(turns), (1, 2)) for image, turns in zip(images.x, y, strict=True)])
    return Images(x, y)
