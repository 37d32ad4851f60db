"""A generator in one file: torch.export (.pt2) or TorchScript (.pt), with a JSON sidecar that says what it takes and gives.

Both formats hold a program that runs when it is loaded or called: load a file only if you trust whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256, write_atomic, write_json
from mpssl_fed.generators.base import GENERATORS, Generator, check_generator
from mpssl_fed.generators.biggan import read_json

SUFFIXES = (".pt2", ".pt")
CURE = "mpssl_fed.generators.exported.export_generator writes file and sidecar"


class ExportedGenerator(Generator):
    """A loaded program with the attributes of its sidecar."""

    def __init__(self, program: nn.Module, sidecar: dict[str, Any], truncation: float, file_sha256: str) -> None:
        super().__init__()
        self.name, self.truncation = "exported", truncation
        self.z_dim, self.size, self.classes = sidecar["z_dim"], sidecar["size"], tuple(sidecar["classes"])
        self.program, self.file_sha256 = program, file_sha256
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)  # a frozen program may have no parameter to tell its device

    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        """Map z [n, z_dim] and soft_label [n, K] to images [n, 3, size, size] in [-1, 1]."""
        images: Tensor = self.program(z, soft_label)
        return images

    def train(self, mode: bool = True) -> ExportedGenerator:
        """Stay as exported: an exported program cannot change its mode."""
        return self

    def state_hash(self) -> str:
        """Return a SHA-256 over weights, class names and the file: its operations and constants are no state."""
        return hashlib.sha256(json.dumps([super().state_hash(), self.file_sha256, self.classes]).encode()).hexdigest()


def export_generator(generator: Generator, path: str | Path) -> Path:
    """Write ``generator`` as a torch.export file ``path`` (.pt2), any batch size, and its sidecar; return the path.

    The truncation is part of what is written. UserError for another suffix.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise UserError(f"export path {path} ends in '{path.suffix}'; it must end in .pt2")
    reference = next(generator.parameters())
    z = torch.zeros(2, generator.z_dim, dtype=reference.dtype, device=reference.device)
    label = torch.full((2, len(generator.classes)), 1 / len(generator.classes), dtype=z.dtype, device=z.device)
    n = torch.export.Dim("n", min=1)
    program = torch.export.export(generator.eval(), (z, label), dynamic_shapes=({0: n}, {0: n}))
    blob = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor found in the group")  # of weights on an accelerator
        torch.export.save(program, blob)
    sidecar = {
        "name": generator.name, "z_dim": generator.z_dim, "size": generator.size, "truncation": generator.truncation,
        "classes": list(generator.classes),
    }  # fmt: skip
    write_json(path.with_suffix(".json"), sidecar)
    return write_atomic(path, blob.getvalue())


@GENERATORS.add("exported")
def load_exported(path: str | Path | None, truncation: float) -> ExportedGenerator:
    """Load a .pt2 or .pt file and the .json of the same stem beside it, and try it (:func:`check_generator`).

    UserError for a missing or unreadable file, a sidecar that lacks or misstates z_dim, size or classes, another truncation
    than the sidecar's (where it has one), or a program that does not keep the protocol.
    """
    if path is None or Path(path).suffix not in SUFFIXES:
        raise UserError(f"generator 'exported' needs generator.path: a {' or '.join(SUFFIXES)} file, not {path}; {CURE}")
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise UserError(f"generator 'exported' needs the file {file}, which does not exist; {CURE}")
    sidecar = _sidecar(path.with_suffix(".json"))
    baked = sidecar.get("truncation", truncation)
    if baked != truncation:
        raise UserError(f"generator.truncation is {truncation}, but {path} was exported at {baked}; set it to {baked}")
    generator = ExportedGenerator(_program(path), sidecar, truncation, sha256(path))
    generator.requires_grad_(False)
    check_generator(f"generator file {path} (by {path.with_suffix('.json').name})", generator)
    return generator


def _program(path: Path) -> nn.Module:
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no torch.export or TorchScript file; {CURE}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
            if path.suffix == ".pt2":
                program: object = torch.export.load(path).module()
            else:
                program = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # a damaged archive makes torch raise anything
        what = "torch.export" if path.suffix == ".pt2" else "TorchScript"
        raise UserError(f"{path} is no readable {what} file: {str(error).partition(chr(10))[0][:200]}") from error
    assert isinstance(program, nn.Module)
    return program


def _sidecar(path: Path) -> dict[str, Any]:
    sidecar = read_json(path)
    if not isinstance(sidecar, dict):
        raise UserError(f"{path} must hold a JSON object with z_dim, size and classes")
    for key in ("z_dim", "size"):
        value = sidecar.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{path}: {key} is {value!r}; it must be a whole number, 1 or more")
    names = sidecar.get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise UserError(f"{path}: classes is {str(names)[:80]}; it must be a list of distinct class names")
    return sidecar
