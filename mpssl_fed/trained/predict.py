"""Class and probability for image files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.data.decode import SUFFIXES, check_regular
from mpssl_fed.data.site_csv import read_paths
from mpssl_fed.data.walk import Skipped, walk
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown
from mpssl_fed.runs.reader import STUDY, is_run
from mpssl_fed.trained.lists import is_list
from mpssl_fed.trained.load import Trained

OF_RUNS = "plots and samples of a run or study (name its folder to read them)"


@dataclass(frozen=True)
class Prediction:
    """The most probable class of one file, its probability, and the probability of every class (summing to 1).

    written: the file as a list names it, to be found there again; None where no list does.
    """

    file: Path
    label: str
    probability: float
    probabilities: dict[str, float]
    written: str | None = None


def predict(trained: Trained, paths: Iterable[str | Path], skipped: Skipped | None = None) -> Iterator[Prediction]:
    """Yield a prediction for each image file, in the order given; a folder stands for the images in it, in depth, sorted.

    A folder is walked as training walks it: links are followed, hidden and tools' names are not read; ``skipped``, where given,
    gets what was left out. A list (:func:`is_list`) stands for what its column ``path`` names, line by line: a file that is named
    twice has two predictions. Raises UserError before the first prediction for a path that does not exist, also in a list, or a
    folder without an image, and at its turn for a file that cannot be decoded.
    """
    named: list[tuple[str | None, Path]] = []
    for path in map(Path, paths):
        named += read_paths(path) if is_list(path) else [(None, file) for file in image_files([path], skipped)]
    return _predictions(trained, named)


def image_files(paths: Iterable[str | Path], skipped: Skipped | None = None) -> list[Path]:
    """Return the image files that ``paths`` name. A file is taken whatever it is called; a folder is walked."""
    skipped, files = Skipped() if skipped is None else skipped, []
    for path in map(Path, paths):
        if not path.is_dir():
            check_regular(path)
            files.append(path)
            continue
        here = Skipped()
        found = _not_of_runs(path, walk(path, here), here)
        if not found:
            left = f"; left out: {here.counts()}" if here.found else ""
            raise UserError(f"folder {shown(path)} has no image file ({', '.join(SUFFIXES)}){left}")
        files += found
        for reason, items in here.found.items():
            skipped.add(reason, *items)
    return files


def _not_of_runs(root: Path, images: list[Path], skipped: Skipped) -> list[Path]:
    """Return ``images`` without the plots of runs and studies below ``root``; a run that is itself the folder asked for is read."""
    folders = {folder for image in images for folder in image.parents if root in folder.parents}
    runs = {folder for folder in folders if is_run(folder) or ((folder / STUDY).is_file() and (folder / "cells").is_dir())}
    skipped.add(OF_RUNS, *(image for image in images if not runs.isdisjoint(image.parents)))
    return [image for image in images if runs.isdisjoint(image.parents)]


def _predictions(trained: Trained, named: list[tuple[str | None, Path]]) -> Iterator[Prediction]:
    written, classes = (name for name, _ in named), trained.classes
    for files, logits in trained.batches([file for _, file in named]):
        for file, row in zip(files, logits.double().softmax(1), strict=True):
            best, shares = int(row.argmax()), dict(zip(classes, row.tolist(), strict=True))
            yield Prediction(file, classes[best], float(row[best]), shares, next(written))
