"""CIFAR-10's official batches."""

from __future__ import annotations

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
