"""The classifier of a run, with the way in which its run turned an image file into numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mpssl_fed.caller import apart_from_caller
from mpssl_fed.data.base import Images
from mpssl_fed.data.decode import has_side, read_images
from mpssl_fed.data.fine_grained import STORED
from mpssl_fed.data.mnist import from_28
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.models import Classifier
from mpssl_fed.runs.model_file import read_model, read_preparation, snapshot_of
from mpssl_fed.runs.reader import CONFIG, MODEL, read_config

BATCH = 256
BEFORE = {
    **dict.fromkeys(("aircraft", "birds", "cars", "dtd", "flowers", "pets"), Preparation(central=1 / STORED)),
    **dict.fromkeys(("mnist-5k", "fashion-mnist"), Preparation(pads_28=True)),
}
"""How runs on these sets read images in versions whose model files did not say it."""


@dataclass(frozen=True)
class Trained:
    """A trained classifier in eval mode, its file, and how an image file becomes its input (None: by the central crop)."""

    classifier: Classifier
    file: Path
    preparation: Preparation | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the logits."""
        return self.classifier.classes

    @apart_from_caller()
    def read(self, paths: Sequence[Path]) -> Tensor:
        """Return image files of any size, grey or colour, as uint8 [n, C, S, S], in the way the run read its test images.

        That is upright, made square as ``preparation`` says, resized. Raises UserError naming a file that is broken.
        """
        size, channels, how = self.classifier.size, self.classifier.channels, self.preparation or Preparation()
        if not how.pads_28:
            return read_images(paths, size, channels, how)
        small = [from_28(read_images([path], 28, channels, how), size) if has_side(path, 28) else None for path in paths]
        rows = [read_images([path], size, channels, how) if x is None else x for path, x in zip(paths, small, strict=True)]
        return torch.cat(rows)

    @apart_from_caller()
    def logits(self, x: Tensor) -> Tensor:
        """Return float32 logits [n, K] on the CPU for uint8 images [n, C, S, S], in batches on the classifier's device."""
        where = next(self.classifier.parameters()).device
        images = Images(x, torch.zeros(len(x), dtype=torch.int64))
        with torch.no_grad():
            parts = [
                self.classifier(images.take(rows).floats(where)).float().cpu() for rows in torch.split(torch.arange(len(x)), BATCH)
            ]
        logits = torch.cat(parts)
        if not logits.isfinite().all():
            raise UserError(f"{self.file}: the classifier's output is not finite; its training diverged, so train again")
        return logits

    def batches(self, paths: Sequence[Path]) -> Iterator[tuple[Sequence[Path], Tensor]]:
        """Yield (paths, logits [n, K]) batch by batch, so that a folder of any length fits in memory."""
        for first in range(0, len(paths), BATCH):
            some = paths[first : first + BATCH]
            yield some, self.logits(self.read(some))


@apart_from_caller()
def load_trained(run: str | Path, device: str = "auto", white_level: float | None = None) -> Trained:
    """Return the trained classifier of a run directory, a folder of the hub's form or a ``model.safetensors`` file, on ``device``.

    device: auto (CUDA where there is one), cpu, cuda, cuda:1, mps. white_level: that of the files to be read, where it is another
    than that of the run's own; see :class:`Preparation`. Raises UserError when there is no such run, it has no model
    yet, the file is not one of ours, its weights are not finite, or the device is not there.
    """
    path = expanded(run)
    if not path.exists():
        beside = [str(path.parent / item.name) for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            f"run '{run}' does not exist.{nearest(str(path), beside)} Want a run directory (made by `mpssl-fed simulate`) "
            f"or a {MODEL} file"
        )
    path = snapshot_of(path)
    classifier = read_model(path)
    file = path / MODEL if path.is_dir() else path
    preparation = read_preparation(path) or _before(file.parent)
    if white_level is not None:
        preparation = replace(preparation, white_level=white_level)
    return Trained(_move(classifier, device), file, preparation)


def _before(folder: Path) -> Preparation:
    data = read_config(folder).data.name if (folder / CONFIG).is_file() else ""
    return BEFORE.get(data, Preparation())


def _move(classifier: Classifier, device: str) -> Classifier:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return classifier.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA raises AssertionError
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device} cannot be used here ({reason}); want auto, cpu, cuda or mps") from error
