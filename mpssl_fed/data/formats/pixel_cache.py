"""Images as they were decoded, on disk, so that a second start is quick.

An image is found by the SHA-256 of its file and by all that decides how it is read, this package's own code included, so a file
that was changed is never served as it was. Parts are whole or not there, are named by their own SHA-256 and checked by it when
they are opened, and are private: folder 0700, files 0600, of this user alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpssl_fed.environment import image_cache_folder
from mpssl_fed.files import plain_file, sha256, write_new

FEWEST = 1000
"""Images of one reading from which on they are kept; fewer are decoded in seconds anyway."""

MOST_BYTES = 4 << 30
"""Of the whole cache; the parts that were not used for longest go first."""

PART_BYTES = 64 << 20
"""About what is held before it is written."""

DIGEST = 32
A_DAY = 86_400
READER = ("decode.py", "eight_bits.py", "preparation.py", "formats/dicom.py")
"""The code that turns a file into pixels."""


def pixel_cache(images: int, settings: str) -> PixelCache | None:
    """Return the cache for ``images`` files that are read by ``settings`` (a text that holds all of them).

    None where they are too few, the user has switched it off, or there is no folder that is this user's alone, as far as
    the system tells of users.
    """
    root = image_cache_folder() if images >= FEWEST else None
    if root is None or not hasattr(os, "geteuid"):
        return None
    folder = root / hashlib.sha256(f"{settings} {_reader()}".encode()).hexdigest()[:32]
    with suppress(OSError):
        for one in (root, folder):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = one.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                return None
        return PixelCache(root, folder)
    return None


def place_of(images: int) -> list[Path]:
    """Return the folder in which so many images are kept, where there is one already."""
    root = image_cache_folder() if images >= FEWEST else None
    return [root] if root is not None and root.is_dir() else []


def clear() -> int:
    """Remove every cached image of this user; return how many files went."""
    root = image_cache_folder()
    files = [] if root is None or not root.is_dir() or root.is_symlink() else _files(root)
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


class PixelCache:
    """Images uint8 [C, S, S] (C 1 or 3) by the SHA-256 (hex) of their files. Failing to write is no error."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._rows: dict[bytes, NDArray[np.uint8]] = {}
        self._new: dict[int, list[NDArray[np.uint8]]] = {1: [], 3: []}
        for file in sorted(folder.glob("*-*.npy")):
            with suppress(OSError, ValueError):
                self._open(file)

    def get(self, digest: str, size: int) -> Tensor | None:
        """Return the image [C, size, size] of a file, None where it is not kept."""
        row = self._rows.get(bytes.fromhex(digest))
        return None if row is None else torch.from_numpy(row[DIGEST:].reshape(-1, size, size).copy())

    def add(self, digest: str, image: Tensor) -> None:
        """Keep an image; a part is written whenever enough has gathered."""
        row = np.concatenate([np.frombuffer(bytes.fromhex(digest), np.uint8), image.numpy().reshape(-1)])
        waiting = self._new[len(image)]
        waiting.append(row)
        if len(waiting) * row.nbytes >= PART_BYTES:
            self._write(len(image))

    def save(self) -> None:
        """Write what has gathered, and drop what was not used for longest where the cache is larger than MOST_BYTES."""
        for channels in self._new:
            self._write(channels)
        _prune(self._root)

    def _open(self, file: Path) -> None:
        if sha256(plain_file(file)) != file.stem.rpartition("-")[2]:
            file.unlink(missing_ok=True)  # damaged: decoded again
            return
        table = np.load(file, mmap_mode="r", allow_pickle=False)
        self._rows |= {row[:DIGEST].tobytes(): row for row in table}
        os.utime(file)

    def _write(self, channels: int) -> None:
        rows, self._new[channels] = self._new[channels], []
        if not rows:
            return
        content = io.BytesIO()
        np.save(content, np.stack(rows), allow_pickle=False)
        whole = content.getvalue()
        with suppress(OSError):  # a full disk; another process that wrote the same
            write_new(self._folder / f"{channels}-{hashlib.sha256(whole).hexdigest()}.npy", whole, 0o600)


def _files(root: Path) -> list[Path]:
    """Return parts and what a killed process left of one; nothing else that lies there."""
    return [file for pattern in ("*/*-*.npy", "*/.*-*.npy.*") for file in root.glob(pattern) if not file.is_symlink()]


def _prune(root: Path) -> None:
    found = []
    for file in _files(root):
        with suppress(OSError):
            status = file.stat()
            found.append(
                (file.name.startswith(".") and status.st_mtime < time.time() - A_DAY, status.st_mtime, status.st_size, file)
            )
    total = sum(size for _, _, size, _ in found)
    for left_over, _, size, file in sorted(found, key=lambda one: (not one[0], one[1])):
        if not left_over and total <= MOST_BYTES:
            break
        with suppress(OSError):
            file.unlink()
            total -= size


@cache
def _reader() -> str:
    """Return what tells this version of the code that reads from any other: its own bytes, and its decoders' versions."""
    here = Path(__file__).parents[1]
    code = [hashlib.sha256((here / name).read_bytes()).hexdigest() for name in READER]
    return json.dumps([code, [_version(name) for name in ("pillow", "numpy", "pydicom")]])


def _version(package: str) -> Sequence[str]:
    try:
        return [package, version(package)]
    except PackageNotFoundError:
        return [package]
