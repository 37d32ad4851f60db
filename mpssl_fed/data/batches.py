"""Sets that come as whole arrays: CIFAR-10's official batches and MedMNIST's npz files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpssl_fed.data.base import DATASETS, Dataset, Images
from mpssl_fed.data.fetch import fetch_dataset
from mpssl_fed.data.mnist import resize
from mpssl_fed.errors import UserError

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@DATASETS.add("cifar10")
def cifar10(root: Path | None = None, size: int | None = None, download: bool = False) -> Dataset:
    """Return CIFAR-10 (50,000 + 10,000 colour images) from ``root/cifar-10-batches-py`` or ``root/cifar-10-batches-bin``.

    The python batches are pickles; torchvision opens them only if their MD5 is the published one.
    """
    if root is None:
        raise UserError("data set 'cifar10' needs data.root, the folder that holds cifar-10-batches-py or -bin")
    binary = root / "cifar-10-batches-bin"
    if binary.is_dir() and not (root / "cifar-10-batches-py").is_dir():
        names = [f"data_batch_{i}.bin" for i in range(1, 6)]
        parts = [_binary([binary / name for name in names]), _binary([binary / "test_batch.bin"])]
    else:
        if download:
            fetch_dataset("cifar10", root)
        parts = [_python(root, train) for train in (True, False)]
    train, test = (Images(resize(part.x, size or 32), part.y) for part in parts)
    return Dataset("cifar10", CIFAR_CLASSES, train, test, flip=True)


@DATASETS.add("medmnist")
def medmnist(root: Path | None = None, size: int | None = None, variant: str | None = None) -> Dataset:
    """Return ``root/VARIANT.npz`` of MedMNIST (https://medmnist.com), for example ``medmnist/bloodmnist``.

    Its train and val parts are joined, since each site sets its own validation images aside. Default size: 32 for the
    28-pixel files, else the file's own. Mirroring is off: it swaps the sides of a body.
    """
    if not variant or "/" in variant or root is None:
        raise UserError(
            f"data set 'medmnist{'/' + variant if variant else ''}': write data.name as medmnist/NAME (for example "
            "medmnist/bloodmnist) and data.root as the folder that holds NAME.npz"
        )
    path = root / f"{variant}.npz"
    if not path.is_file():
        raise UserError(f"data set 'medmnist/{variant}': {path} does not exist; fetch it from https://medmnist.com")
    parts = {}
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            for part in ("train", "val", "test"):
                parts[part] = _medmnist_part(file[f"{part}_images"], file[f"{part}_labels"], path, part)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a MedMNIST file with train, val and test arrays ({error}); fetch it again") from error
    side = parts["test"].x.shape[-1]
    size = size or (32 if side == 28 else side)
    x, y = (torch.cat([getattr(parts[part], key) for part in ("train", "val")]) for key in ("x", "y"))
    test = Images(resize(parts["test"].x, size), parts["test"].y)
    classes = tuple(str(label) for label in range(int(max(y.max(), test.y.max())) + 1))
    return Dataset(f"medmnist/{variant}", classes, Images(resize(x, size), y), test, flip=False)


def _medmnist_part(images: np.ndarray, labels: np.ndarray, path: Path, part: str) -> Images:
    if labels.ndim != 2 or labels.shape[1] != 1:
        raise UserError(f"{path}: {part}_labels {list(labels.shape)} are not one class an image; choose another set")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise UserError(f"{path}: {part}_images {images.dtype} {list(images.shape)} are not 2-D images, grey or colour")
    x = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Images(torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(labels[:, 0].astype(np.int64)))


def _binary(paths: list[Path]) -> Images:
    """CIFAR's binary layout: records of 1 label byte and 3 x 32 x 32 pixel bytes."""
    tables: list[Tensor] = []
    for path in paths:
        content = np.fromfile(path, dtype=np.uint8) if path.is_file() else np.empty(0, np.uint8)
        if not len(content) or len(content) % 3073:
            raise UserError(f"{path} is missing or cut short ({len(content)} bytes, not a multiple of 3073); fetch it again")
        tables.append(torch.from_numpy(content.reshape(-1, 3073)))
    table = torch.cat(tables)
    return Images(table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].long())


def _python(root: Path, train: bool) -> Images:
    from torchvision.datasets import CIFAR10  # a second of import that no other path needs

    try:
        part = CIFAR10(str(root), train=train)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"data set 'cifar10': no complete cifar-10-batches-py in {root} ({error}). Unpack {CIFAR10.filename} from "
            f"{CIFAR10.url} there, or set data.download=true"
        ) from error
    return Images(torch.from_numpy(part.data.transpose(0, 3, 1, 2).copy()), torch.tensor(part.targets))
