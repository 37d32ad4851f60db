"""The classifier as a file for other runtimes: ONNX, or a torch.export program. Each is read and compared before it is kept."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpssl_fed.caller import apart_from_caller
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import real, write_atomic
from mpssl_fed.models import Classifier
from mpssl_fed.runs.written import is_ours
from mpssl_fed.seeds import torch_rng
from mpssl_fed.trained.load import Trained

SUFFIX = {"onnx": ".onnx", "torch-export": ".pt2"}
HUB = "hub"
"""The command line's third form, a folder: :mod:`mpssl_fed.dossier.publish`."""

TOLERANCE = 1e-3
"""Largest difference of a logit, relative to the largest logit; float32 kernels of two runtimes stay far below it."""
CHECKED_BATCHES = (1, 2, 7)

Runner = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """The file written, and the largest absolute difference of a logit from the classifier's on random images."""

    file: Path
    difference: float


@apart_from_caller()
def export(trained: Trained, form: str = "torch-export", out: str | Path | None = None, overwrite: bool = False) -> Exported:
    """Write the classifier as ``onnx`` or ``torch-export``, once it has been read back and compared on random images.

    Input ``images`` float32 [n, C, S, S] in [-1, 1] (pixel / 127.5 - 1; n is free), output ``logits`` float32 [n, K]; classes and
    all that makes an input of an image file are in the file (ONNX: metadata_props; torch.export: extra file ``metadata.json``;
    keys of :func:`metadata_of`). ``torch-export`` needs nothing but torch, ``onnx`` the extra of that name. Default
    ``out``: beside the model. Raises UserError for an unknown form, a file that exists, a missing extra, or a difference above
    ``TOLERANCE``; what was there stays then.
    """
    if form not in SUFFIX:
        raise UserError(f"--format {form}: unknown.{nearest(form, (*SUFFIX, HUB))} Known: {', '.join((*SUFFIX, HUB))}")
    file = expanded(out) if out else trained.file.with_suffix(SUFFIX[form])
    if file.is_dir() or (file.exists() and not overwrite):
        raise UserError(f"--out {file} exists; choose another file{'' if file.is_dir() else ' or add --overwrite'}")
    place, home = real(file), real(trained.file.parent)
    of_run = place.is_relative_to(home) and is_ours(place.relative_to(home))
    if of_run or (file.exists() and file.samefile(trained.file)):
        raise UserError(f"--out {file}: is a file of the run itself, which stays as it is; choose another file")
    classifier = copy.deepcopy(trained.classifier).cpu()
    to_bytes, reader = {"onnx": (_to_onnx, _read_onnx), "torch-export": (_to_program, _read_program)}[form]
    content = to_bytes(classifier, metadata_of(trained))
    with tempfile.TemporaryDirectory() as scratch:
        tried = Path(scratch) / f"model{SUFFIX[form]}"
        tried.write_bytes(content)
        difference, allowed = _compare(classifier, reader(tried))
    if difference > allowed:
        raise UserError(f"--format {form}: logits differ by {difference:.2g} (allowed {allowed:.2g}); {file} was not written")
    write_atomic(file, content)
    return Exported(file, difference)


def metadata_of(trained: Trained) -> dict[str, Any]:
    """Return what an exported file says of itself, as JSON types: classes, architecture, input, preprocessing, output."""
    classifier, how = trained.classifier, trained.preparation or Preparation()
    return {
        "classes": list(classifier.classes),
        "architecture": classifier.architecture(),
        "preprocessing": how.steps(classifier.size, classifier.channels),
        "input": f"images: float32 [n, {classifier.channels}, {classifier.size}, {classifier.size}] in [-1, 1]",
        "normalisation": "pixel / 127.5 - 1 for pixels 0..255",
        "output": f"logits: float32 [n, {len(classifier.classes)}]; softmax gives probabilities",
    }


def _images(classifier: Classifier, n: int) -> Tensor:
    shape = (n, classifier.channels, classifier.size, classifier.size)
    return torch.rand(shape, generator=torch_rng(0, "export", n)) * 2 - 1


def _batch() -> Any:
    return torch.export.Dim("n", min=1)


def _to_onnx(classifier: Classifier, metadata: dict[str, Any]) -> bytes:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx: {', '.join(missing)} not installed; pip install 'mpssl-fed[onnx]', or use torch-export")
    program = torch.onnx.export(
        classifier,
        (_images(classifier, 3),),
        dynamo=True,
        dynamic_shapes=({0: _batch()},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    if program is None:
        raise UserError("--format onnx: this version of torch returned no program; use torch-export")
    proto = program.model_proto
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    content: bytes = proto.SerializeToString()
    return content


def _read_onnx(file: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        logits: np.ndarray = session.run(["logits"], {"images": x.numpy()})[0]
        return torch.from_numpy(logits)

    return run


def _to_program(classifier: Classifier, metadata: dict[str, Any]) -> bytes:
    program = torch.export.export(classifier, (_images(classifier, 3),), dynamic_shapes=({0: _batch()},))
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={"metadata.json": json.dumps(metadata)})
    return content.getvalue()


def _read_program(file: Path) -> Runner:
    return torch.export.load(file).module()


def _compare(classifier: Classifier, other: Runner) -> tuple[float, float]:
    """Return (largest difference of a logit, the largest allowed) over a few batch sizes."""
    difference = scale = 0.0
    with torch.no_grad():
        for n in CHECKED_BATCHES:
            x = _images(classifier, n)
            ours, theirs = classifier(x), other(x)
            if theirs.shape != ours.shape:
                return float("inf"), TOLERANCE
            difference = max(difference, float((ours - theirs).abs().max()))
            scale = max(scale, float(ours.abs().max()))
    return difference, TOLERANCE * max(scale, 1.0)
