"""`load_dataset`: a classification task by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

# The modules after base are imported because each registers its readers.
from mpssl_fed.data import batches, fine_grained, folder, image_csv, mnist, omniglot
from mpssl_fed.data.base import DATASETS, Dataset, Images, Reader, validation_split
from mpssl_fed.data.formats import hub, medmnist
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError

__all__ = [
    "DATASETS", "Dataset", "Images", "Reader", "batches", "fine_grained", "folder", "hub", "image_csv", "load_dataset", "medmnist",
    "mnist", "omniglot", "validation_split",
]  # fmt: skip


def load_dataset(
    name: str,
    root: str | Path | None = None,
    size: int | None = None,
    download: bool = False,
    subjects: str | None = None,
    prepared: Preparation | None = None,
) -> Dataset:
    """Return the data set ``name``, or the variant ``NAME/VARIANT``, at ``size`` x ``size`` pixels (default: its own).

    A reader gets those of root, size, download, variant, subjects, fit, white_level and window that it takes. Nothing is fetched
    unless ``download``. ``subjects`` (image-folder, -csv) says where subjects are read from; ``prepared`` says how files of
    other shapes and types become images. Raises UserError for bad input, with the cure.
    """
    reader, variant = _reader(name)
    if size is not None and not 8 <= size <= 1024:
        raise UserError(f"data.size is {size}; images can be 8 to 1024 pixels wide")
    options: dict[str, Any] = {"root": _existing(name, root, download), "size": size, "download": download}
    options |= {"variant": variant, "subjects": subjects}
    known = inspect.signature(reader).parameters
    prepared = prepared or Preparation()
    for key in ("fit", "white_level", "window"):
        value = getattr(prepared, key)
        if key not in known and value != getattr(Preparation(), key):
            raise UserError(f"data set '{name}' has its own way of reading images; leave out data.{key}={value}")
        options[key] = value
    for key in ("variant", "subjects"):
        if options[key] is not None and key not in known:
            raise UserError(f"data set '{name}' has no {key}; leave out '{options[key]}'")
    return reader(**{key: value for key, value in options.items() if key in known})


def _reader(name: str) -> tuple[Reader, str | None]:
    if name in DATASETS:
        return DATASETS[name], None
    family, slash, variant = name.partition("/")
    return (DATASETS[family], variant) if slash and family in DATASETS else (DATASETS[name], None)


def _existing(name: str, root: str | Path | None, download: bool) -> Path | None:
    path = None if root is None else expanded(root)
    if path is not None and not path.exists() and not download:
        raise UserError(f"data set '{name}': data.root {path} does not exist; correct it, or put the files there")
    return path
