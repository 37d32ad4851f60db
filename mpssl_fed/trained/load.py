"""The classifier of a run, with the way in which its run turned an image file into numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mpssl_fed.data.base import Images
from mpssl_fed.data.decode import read_images
from mpssl_fed.data.fine_grained import STORED
from mpssl_fed.data.mnist import from_28
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.models import Classifier
from mpssl_fed.runs.model_file import read_model
from mpssl_fed.runs.reader import CONFIG, MODEL, read_config

BATCH = 256
CENTRE_CROPPED = ("aircraft", "birds", "cars", "dtd", "flowers", "pets")
PADDED = ("mnist-5k", "fashion-mnist")


@dataclass(frozen=True)
class Trained:
    """A trained classifier in eval mode, its file, and the data set of its run (None for a model file on its own)."""

    classifier: Classifier
    file: Path
    data: str | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the logits."""
        return self.classifier.classes

    def read(self, paths: Sequence[Path]) -> Tensor:
        """Return image files of any size, grey or colour, as uint8 [n, C, S, S], in the way the run read its test images.

        That is upright, central square, resized. Runs on 28-pixel sets (mnist-5k, fashion-mnist) pad a file of just that size
        as their readers do; runs on the fine-grained sets crop the centre. Raises UserError naming a file that is broken.
        """
        size, channels = self.classifier.size, self.classifier.channels
        central = 1 / STORED if self.data in CENTRE_CROPPED else 1.0
        if self.data not in PADDED:
            return read_images(paths, size, channels, central)
        small = [from_28(read_images([path], 28, channels), size) if _is_28(path) else None for path in paths]
        rows = [read_images([path], size, channels) if x is None else x for path, x in zip(paths, small, strict=True)]
        return torch.cat(rows)

    def logits(self, x: Tensor) -> Tensor:
        """Return float32 logits [n, K] on the CPU for uint8 images [n, C, S, S], in batches on the classifier's device."""
        where = next(self.classifier.parameters()).device
        images = Images(x, torch.zeros(len(x), dtype=torch.int64))
        with torch.no_grad():
            parts = [self.classifier(images.take(rows).floats(where)).float().cpu() for rows in torch.arange(len(x)).split(BATCH)]
        logits = torch.cat(parts)
        if not logits.isfinite().all():
            raise UserError(f"{self.file}: the classifier's output is not finite; its training diverged, so train again")
        return logits

    def batches(self, paths: Sequence[Path]) -> Iterator[tuple[Sequence[Path], Tensor]]:
        """Yield (paths, logits [n, K]) batch by batch, so that a folder of any length fits in memory."""
        for first in range(0, len(paths), BATCH):
            some = paths[first : first + BATCH]
            yield some, self.logits(self.read(some))


def load_trained(run: str | Path, device: str = "auto") -> Trained:
    """Return the trained classifier of a run directory or a ``model.safetensors`` file, on ``device``.

    device: auto (CUDA where there is one), cpu, cuda, cuda:1, mps. Raises UserError when there is no such run, it has no model
    yet, the file is not one of ours, its weights are not finite, or the device is not there.
    """
    path = expanded(run)
    if not path.exists():
        beside = [str(path.parent / item.name) for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            f"run '{run}' does not exist.{nearest(str(path), beside)} Want a run directory (made by `mpssl-fed simulate`) "
            f"or a {MODEL} file"
        )
    classifier = read_model(path)
    file = path / MODEL if path.is_dir() else path
    data = read_config(file.parent).data.name if (file.parent / CONFIG).is_file() else None
    return Trained(_move(classifier, device), file, data)


def _move(classifier: Classifier, device: str) -> Classifier:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return classifier.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA raises AssertionError
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device} cannot be used here ({reason}); want auto, cpu, cuda or mps") from error


def _is_28(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.size == (28, 28)
    except OSError:  # missing or broken: reading it says so with its name
        return False
