"""``data.name=hf/NAME``: an image-classification set in the form of the Hugging Face hub, from this machine alone (extra ``[hf]``).

Read are a folder of Parquet files as the hub keeps them, one that ``save_to_disk`` wrote, and the hub's cache. No loading script is
run, nothing is copied into a cache, and images are decoded as all others here are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mpssl_fed.config.data import Fit
from mpssl_fed.data.base import DATASETS, Dataset, Images, split_by_key
from mpssl_fed.data.decode import read_image
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.environment import extra
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.names import shown

NAME = re.compile(r"(?P<set>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(:(?P<label>[^:/]+))?")
SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""A split's name, or how the name of a Parquet file begins -> what it is."""

BATCH = 64
TEST_FRACTION = 0.2
MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Split:
    """Rows of a split: ``parts`` are Parquet files, or data sets of the package; ``features``: the type of each column."""

    parts: list[Any]
    features: dict[str, Any]

    def rows(self, image: str, label: str) -> Iterator[tuple[Any, Any]]:
        """Yield (cell of the image, label) of each row, a few rows in memory at a time."""
        for part in self.parts:
            if isinstance(part, Path):
                import pyarrow.parquet

                for batch in pyarrow.parquet.ParquetFile(part).iter_batches(BATCH, columns=[image, label]):
                    yield from ((row[image], row[label]) for row in batch.to_pylist())
            else:
                yield from ((row[image], row[label]) for row in part.select_columns([image, label]))


@DATASETS.add("hf")
def hub_set(
    root: Path | None = None,
    size: int | None = None,
    variant: str | None = None,
    fit: Fit = "crop",
    white_level: float | None = None,
) -> Dataset:
    """Return ``hf/NAME`` from the folder ``root``, else ``hf/OWNER/NAME`` from the hub's cache; ``hf/NAME:COLUMN`` says the label.

    Train and validation are joined, since each site sets its own validation images aside; without a labelled test split validation
    is tested on, else a fifth of train, chosen by content. Images are grey if all of them are. UserError where the extra is not
    installed, nothing of the set is here, or what is here is no image classification.
    """
    said = NAME.fullmatch(variant or "")
    if said is None:
        raise UserError(
            f"data.name=hf/{variant or ''}: write hf/OWNER/NAME, or hf/NAME with its folder as data.root; :COLUMN for the label"
        )
    name, datasets = f"hf/{variant}", extra("hf", "datasets", f"data.name=hf/{variant}")
    folder = root or _cached(said["set"])
    splits = _splits(datasets, folder, name)
    first = next(iter(splits.values()))
    image, label = _columns(datasets, first.features, said["label"], folder)
    for part, split in splits.items():
        if any(str(split.features.get(column)) != str(first.features[column]) for column in (image, label)):
            raise UserError(f"{shown(folder)}: the columns {image} and {label} of {part} are of another kind than elsewhere")
    prepared = Preparation(fit=fit, white_level=white_level)
    reader = _Reader(name, image, label, size or 32, prepared)
    read = {part: reader.rows(split, part) for part, split in splits.items()}
    if "test" in read and all(str(value) in ("-1", "None") for _, _, value in read["test"]):
        del read["test"]  # its labels are kept secret, as of competitions
    if not any(read.get(part) for part in ("train", "validation")):
        raise UserError(f"{shown(folder)}: {' and '.join(part for part in read if part != 'test')}: no image to train on")
    return _dataset(reader, read, first.features[label])


@dataclass(frozen=True)
class _Reader:
    """name: of the set; image, label: columns; side in pixels, and how an image becomes a square of it."""

    name: str
    image: str
    label: str
    size: int
    prepared: Preparation

    def rows(self, split: Split, part: str) -> list[tuple[torch.Tensor, str, Any]]:
        """Return (uint8 [1 or 3, size, size], SHA-256 of the image's bytes, label) of each row."""
        found = []
        for number, (cell, label) in enumerate(split.rows(self.image, self.label)):
            content = cell.get("bytes") if isinstance(cell, dict) else None
            place = Path(f"{part}[{number}]")
            if not content:
                raise UserError(
                    f"data set '{self.name}': {place} holds no image, but {_pointer(cell)}; save the set with its images in it"
                )
            found.append((read_image(place, self.size, self.prepared, content), hashlib.sha256(content).hexdigest(), label))
        return found


def _dataset(reader: _Reader, read: dict[str, list[Any]], feature: Any) -> Dataset:
    rows = [row for part in read.values() for row in part]
    classes, number_of = _classes(reader.name, feature, [label for _, _, label in rows])
    channels = 1 if all(len(x) == 1 for x, _, _ in rows) else 3
    x = torch.stack([x.expand(channels, -1, -1) for x, _, _ in rows])
    y = torch.tensor([number_of[label] for _, _, label in rows], dtype=torch.int64)
    images = Images(x, y, digests=tuple(digest for _, digest, _ in rows))
    first, note = len(rows) - len(read["test"]) if "test" in read else len(read.get("train", ())), ""
    train, test = np.arange(first), np.arange(first, len(rows))
    if "test" not in read and len(read) == 2:
        note = "no test split with labels: the validation split is tested on"
    elif "test" not in read:
        train, test = split_by_key(y.numpy(), images.digests or (), TEST_FRACTION)
        note = f"no test split with labels: {len(test)} of {len(rows)} images are held out"
    return Dataset(reader.name, classes, images.take(train), images.take(test), False, note, reader.prepared)


def _classes(name: str, feature: Any, labels: list[Any]) -> tuple[tuple[str, ...], dict[Any, int]]:
    """Return the names of the classes and the number of each value of the label column."""
    names = getattr(feature, "names", None)
    plain = {value for value in labels if type(value) in (int, str)}  # several labels of an image are a list
    values = list(range(len(names))) if names else sorted(plain, key=lambda one: (str(type(one)), one))
    known = set(values)
    for number, value in enumerate(labels):
        if type(value) not in (int, str) or value not in known:
            raise UserError(f"data set '{name}': image {number} has the label {value!r:.40}; want one of the set's classes")
    if not 2 <= len(values) <= MOST_CLASSES:
        raise UserError(f"data set '{name}': its labels have {len(values)} values; want 2 to {MOST_CLASSES} classes")
    return tuple(map(str, names or values)), {value: number for number, value in enumerate(values)}


def _columns(datasets: Any, features: dict[str, Any], asked: str | None, folder: Path) -> tuple[str, str]:
    """Return the columns of the image and of the label."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image) or _is_bytes(kind)]
    if len(images) > 1:
        images = [name for name in images if name in ("image", "img")]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if len(labels) != 1:
        labels = [name for name in features if name in ("label", "labels")] or labels
    if asked is not None:
        if asked not in features:
            raise UserError(f"{shown(folder)}: no column '{asked}'.{nearest(asked, list(features))} Known: {', '.join(features)}")
        labels = [asked]
    if len(images) != 1:
        raise UserError(f"{shown(folder)}: want one column of images, among {', '.join(features)} there are {len(images)}")
    if len(labels) != 1:
        cure = f"name one after a colon, as in data.name=hf/NAME:{labels[0]}" if labels else "it is no set of classes"
        raise UserError(f"{shown(folder)}: the label may be {' or '.join(labels) or 'in no column'}; {cure}")
    return images[0], labels[0]


def _is_bytes(kind: Any) -> bool:
    """Whether a column without the hub's own metadata holds images as it would store them."""
    return isinstance(kind, dict) and set(kind) == {"bytes", "path"}


def _splits(datasets: Any, folder: Path, name: str) -> dict[str, Split]:
    """Return the splits in a folder, train first."""
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            found = _saved(datasets, folder)
        else:
            found = _parquet(datasets, folder, name)
    except UserError:
        raise
    except Exception as error:  # damaged files make the package raise anything
        raise UserError(f"{shown(folder)}: no readable data set: {type(error).__name__}: {str(error)[:200]}") from error
    if not {"train", "validation"} & found.keys():
        raise UserError(f"{shown(folder)}: no split to train on, only {', '.join(found)}")
    return dict(sorted(found.items(), key=lambda item: ("train", "validation", "test").index(item[0])))


def _saved(datasets: Any, folder: Path) -> dict[str, Split]:
    whole = datasets.load_from_disk(str(folder))
    parts = whole if isinstance(whole, dict) else {"train": whole}
    found = {}
    for key, part in parts.items():
        if key in SPLITS:
            images = [column for column, kind in part.features.items() if isinstance(kind, datasets.Image)]
            plain = reduce(lambda one, column: one.cast_column(column, datasets.Image(decode=False)), images, part)  # cast() copies
            if SPLITS[key] in found:
                raise UserError(f"{shown(folder)}: '{key}' and another split are both the {SPLITS[key]} split; leave one")
            found[SPLITS[key]] = Split([plain], dict(plain.features))
    return found


def _parquet(datasets: Any, folder: Path, name: str) -> dict[str, Split]:
    import pyarrow.parquet

    files = sorted(file for file in folder.rglob("*.parquet") if not file.relative_to(folder).parts[0].startswith("."))
    if not files:
        kind = "; for folders of image files set data.name=image-folder" if (folder / "train").is_dir() else ""
        raise UserError(f"data set '{name}': {shown(folder)} holds neither Parquet files nor what save_to_disk writes{kind}")
    found: dict[str, dict[Path, list[Path]]] = {}
    for file in files:
        words = (file.name, *reversed(file.relative_to(folder).parts[:-1]))
        split = next((SPLITS[word] for text in words for word in [re.split(r"[-._]", text)[0]] if word in SPLITS), "")
        if split:
            place = file.parent.parent if re.split(r"[-._]", file.parent.name)[0] in SPLITS else file.parent
            found.setdefault(split, {}).setdefault(place, []).append(file)
    places = sorted({place for split in found.values() for place in split})
    if len(places) != 1:
        some = ", ".join(shown(place.relative_to(folder)) for place in places)
        raise UserError(
            f"{shown(folder)}: {'holds several sets, in ' + some if some else 'no file says its split'}; name one by data.root"
        )
    splits = {}
    for split, at in found.items():
        _require_whole(at[places[0]])
        schema = pyarrow.parquet.read_schema(at[places[0]][0])
        splits[split] = Split(at[places[0]], dict(datasets.Features.from_arrow_schema(schema)))
    return splits


def _require_whole(files: list[Path]) -> None:
    """Raise UserError where the files' names say that there are more of them."""
    for file in files:
        wanted = re.search(r"-of-(\d{1,6})\b", file.stem)
        if wanted and len(files) != int(wanted[1]):
            raise UserError(
                f"{shown(file)}: one of {int(wanted[1])} files by its name, but {len(files)} are here; fetch all of them"
            )


def _cached(name: str) -> Path:
    """Return the snapshot of a set in the hub's cache; UserError where there is none."""
    hub = extra("hf", "huggingface_hub", f"data.name=hf/{name}")
    try:
        return Path(hub.snapshot_download(name, repo_type="dataset", local_files_only=True))
    except (OSError, ValueError) as error:  # its own errors are of these kinds
        raise UserError(
            f"data.name=hf/{name}: not in the hub's cache, and nothing is downloaded here; fetch it by `hf download {name} "
            "--repo-type dataset`, or name its folder by data.root"
        ) from error


def _pointer(cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, dict) else None
    return f"the path {shown(path)}" if path else "nothing"
