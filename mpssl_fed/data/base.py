"""What every reader returns, the registry of readers, and a split that depends on nothing but the files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpssl_fed.data.preparation import Preparation
from mpssl_fed.data.subjects import numbered
from mpssl_fed.data.walk import Skipped
from mpssl_fed.errors import UserError
from mpssl_fed.registry import Registry


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in memory: x uint8 [n, C, H, W] (C 1 or 3), y int64 [n], and each image's subject where known.

    digests: SHA-256 (hex) of the file that each image was decoded from, where each image has one. sites: who holds each image,
    where the data say so (multi-centre data).
    """

    x: Tensor
    y: Tensor
    subjects: tuple[str, ...] | None = None
    digests: tuple[str, ...] | None = None
    sites: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.x.dtype != torch.uint8 or self.x.ndim != 4 or self.x.shape[1] not in (1, 3):
            raise UserError(f"images must be uint8 [n, 1 or 3, H, W], not {self.x.dtype} {list(self.x.shape)}")
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise UserError(f"{len(self.x)} images need int64 labels [n], not {self.y.dtype} {list(self.y.shape)}")
        if self.subjects is not None and len(self.subjects) != len(self.x):
            raise UserError(f"{len(self.x)} images come with {len(self.subjects)} subjects; one each is needed")
        if self.digests is not None and len(self.digests) != len(self.x):
            raise UserError(f"{len(self.x)} images come with {len(self.digests)} digests of files; one each is needed")
        if self.sites is not None and len(self.sites) != len(self.x):
            raise UserError(f"{len(self.x)} images come with {len(self.sites)} sites; one each is needed")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: np.ndarray | Tensor | Sequence[int]) -> Images:
        """Return the images at ``index`` [m] (integers), in that order."""
        rows = torch.as_tensor(np.asarray(index, dtype=np.int64))
        kept = (None if of is None else tuple(of[i] for i in rows.tolist()) for of in (self.subjects, self.digests, self.sites))
        return Images(self.x[rows], self.y[rows], *kept)

    def units(self) -> NDArray[np.int64]:
        """Return the number of each image's unit [n]: of its subject, or where none are named its own."""
        return np.arange(len(self)) if self.subjects is None else numbered(self.subjects)

    def contents(self) -> list[bytes]:
        """Return what tells each image from any other, whatever its name, class or place among them: its file's SHA-256.

        Where an image is no file of its own it is the SHA-256 of its pixels as they are held here.
        """
        if self.digests is not None:
            return [b"file " + bytes.fromhex(digest) for digest in self.digests]
        form = f"pixels {list(self.x.shape[1:])} ".encode()
        return [form + hashlib.sha256(image.tobytes()).digest() for image in self.x.cpu().contiguous().numpy()]

    def floats(self, device: str | torch.device = "cpu") -> Tensor:
        """Return x as float32 [n, C, H, W] in [-1, 1]: mean and deviation 0.5, the range of the generator's output."""
        return self.x.to(device).float() / 127.5 - 1


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification task with its fixed held-out test set.

    ``flip`` says that a mirrored image keeps its label. ``note`` is a line for the user, for example about a split that we
    made; ``preparation``: how a new image file becomes one like those of ``test``; ``skipped``: what of the user's files was left
    out. Raises UserError for a label outside 0..len(classes)-1 and for parts that disagree about their channels.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    test: Images
    flip: bool
    note: str = ""
    preparation: Preparation = field(default_factory=Preparation)
    skipped: Skipped = field(default_factory=Skipped)

    def __post_init__(self) -> None:
        for part, images in (("train", self.train), ("test", self.test)):
            if not len(images):
                raise UserError(f"data set '{self.name}': its {part} part has no image")
            check_labels(images.y, len(self.classes), f"data set '{self.name}', {part} part")
        if self.train.x.shape[1] != self.test.x.shape[1]:
            raise UserError(f"data set '{self.name}': train and test differ in channels; one is grey, the other colour")

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (colour)."""
        return self.test.x.shape[1]

    @property
    def size(self) -> int:
        """Side in pixels that the classifier sees; training images may be stored larger, to be cropped from."""
        return self.test.x.shape[-1]


Reader = Callable[..., Dataset]
DATASETS: Registry[Reader] = Registry("datasets")


def check_labels(y: Tensor, classes: int, where: str) -> None:
    """Raise UserError naming the first label of ``y`` that is outside 0..classes-1."""
    wrong = ((y < 0) | (y >= classes)).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise UserError(f"{where}: image {i} has the label {int(y[i])}, out of range 0..{classes - 1}")


def validation_split(dataset: Dataset, fraction: float) -> Dataset:
    """Return ``dataset`` for tuning: ``test`` is a slice of its training images, ``train`` is the rest, the test set is gone.

    The slice is ``fraction`` of each class, chosen by :func:`split_by_key` on the images' subjects, else on their bytes: the
    same for every seed, method and number of labels. Where training images are stored larger than the classifier sees them,
    the slice is their centre at the size of the test set. UserError where no class can spare an image.
    """
    pool = dataset.train
    keys = pool.subjects or [hashlib.sha256(image.tobytes()).hexdigest() for image in pool.x.numpy()]
    rest, held_out = split_by_key(pool.y.numpy(), keys, fraction)
    if not len(held_out):
        raise UserError(
            f"data set '{dataset.name}': data.held_out_fraction={fraction:g} of {len(pool)} training images in "
            f"{len(dataset.classes)} classes is no image; raise it"
        )
    border = (pool.x.shape[-1] - dataset.size) // 2
    chosen = pool.take(held_out)
    centre = chosen.x[..., border : border + dataset.size, border : border + dataset.size].contiguous()
    return replace(dataset, train=pool.take(rest), test=replace(chosen, x=centre))


def split_by_key(y: np.ndarray, keys: Sequence[str], test_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (train, test) indices: stratified by class, with equal keys (copies, one subject) on one side.

    The order is that of the keys' SHA-256, so the split is the same on every machine, whatever the run seed, the file names
    or the version of a random generator. Each class keeps at least one key in train; a class with one key is not in test.
    """
    held_out: dict[str, bool] = {}
    for label in np.unique(y):
        sizes = Counter(keys[i] for i in np.flatnonzero(y == label).tolist())
        order = sorted(sizes, key=lambda key: hashlib.sha256(key.encode()).digest())
        undecided = [key for key in order if key not in held_out]
        taken = sum(sizes[key] for key in order if held_out.get(key))
        kept = any(held_out.get(key) is False for key in order)
        quota = round(test_fraction * sizes.total())
        for key in undecided:
            last_chance = not kept and key == undecided[-1]
            held_out[key] = taken < quota and not last_chance
            taken += sizes[key] if held_out[key] else 0
            kept = kept or not held_out[key]
    side = np.array([held_out[key] for key in keys], dtype=bool)
    return np.flatnonzero(~side), np.flatnonzero(side)
