"""What a dry run knows of data sets that it does not read: classes, images, shape.

Numbers of images are those of the official train (with validation) and test parts: Aircraft arXiv 1306.5151, Birds (CUB-200-2011)
Caltech CNS-TR-2011-001, Cars Krause et al. 2013, DTD arXiv 1311.3618, Flowers Nilsback and Zisserman 2008, Pets Parkhi et al. 2012,
CIFAR-10 Krizhevsky 2009, Fashion-MNIST arXiv 1708.07747. mnist-5k: 500 digits a class, of which the reader puts 300 into train.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class KnownData:
    """Classes, training and test images in all, channels, default side in pixels, and whether training images are stored larger."""

    classes: int
    train: int
    test: int
    channels: int = 3
    size: int = 224
    stored: float = 256 / 224
    flip: bool = True

    def labels(self) -> np.ndarray:
        """Return training labels [train] of classes as even as their number allows; the official ones differ by a few images."""
        return np.sort(np.arange(self.train) % self.classes)

    def validation_split(self, fraction: float) -> KnownData:
        """Return the set with ``fraction`` of each training class held out in place of the test set."""
        held_out = sum(min(round(fraction * count), count - 1) for count in np.bincount(self.labels()).tolist())
        return replace(self, train=self.train - held_out, test=held_out)

    def stored_bytes(self, size: int) -> int:
        """Return the bytes of all images in memory at ``size`` x ``size`` pixels."""
        return self.channels * (self.train * round(size * self.stored) ** 2 + self.test * size**2)


KNOWN = {
    "aircraft": KnownData(100, 6667, 3333),
    "birds": KnownData(200, 5994, 5794),
    "cars": KnownData(196, 8144, 8041),
    "dtd": KnownData(47, 3760, 1880),
    "flowers": KnownData(102, 2040, 6149),
    "pets": KnownData(37, 3680, 3669),
    "cifar10": KnownData(10, 50_000, 10_000, size=32, stored=1),
    "fashion-mnist": KnownData(10, 60_000, 10_000, channels=1, size=32, stored=1),
    "mnist-5k": KnownData(10, 3000, 2000, channels=1, size=32, stored=1, flip=False),
}
