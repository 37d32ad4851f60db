"""Class and probability for image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mpssl_fed.data.decode import SUFFIXES
from mpssl_fed.errors import UserError
from mpssl_fed.trained.load import Trained


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one file, its probability, and the probability of every class (summing to 1)."""

    file: Path
    label: str
    probability: float
    probabilities: dict[str, float]


def predict(trained: Trained, paths: Iterable[str | Path]) -> Iterator[Prediction]:
    """Yield a prediction for each image file, in the order given; a folder stands for the images in it, in depth, sorted.

    Raises UserError before the first prediction for a path that does not exist or a folder without an image, and at its turn
    for a file that cannot be decoded.
    """
    files = image_files(paths)
    return (prediction for some, logits in trained.batches(files) for prediction in _predictions(trained, some, logits))


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the image files that ``paths`` name. A file is taken whatever it is called, hidden files in a folder are not."""
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"image file {path} does not exist")
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(
            item for item in path.rglob("*") if item.suffix.lower() in SUFFIXES and not item.name.startswith(".") and item.is_file()
        )
        if not found:
            raise UserError(f"folder {path} has no image file ({', '.join(SUFFIXES)})")
        files += found
    return files


def _predictions(trained: Trained, files: Sequence[Path], logits: Tensor) -> Iterator[Prediction]:
    for file, row in zip(files, logits.double().softmax(1), strict=True):
        best = int(row.argmax())
        yield Prediction(file, trained.classes[best], float(row[best]), dict(zip(trained.classes, row.tolist(), strict=True)))
