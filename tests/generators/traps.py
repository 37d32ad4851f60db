"""A generator in one file that draws images, and one that also writes a file, as whoever loads it, when it is tried."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

SIDECAR = {"z_dim": 4, "size": 8, "classes": ["a", "b", "c"]}


class Blobs(nn.Module):
    """A map of z [n, 4] and label [n, 3], squashed, to [n, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.map = nn.Linear(7, 3 * 8 * 8)

    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        return self.map(torch.cat([z, soft_label], 1)).tanh().view(-1, 3, 8, 8)


class Trap(Blobs):
    """The same images, and the file ``marker``."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = str(marker)

    def forward(self, z: Tensor, soft_label: Tensor) -> Tensor:
        torch.save(z, self.marker)
        return self.map(torch.cat([z, soft_label], 1)).tanh().view(-1, 3, 8, 8)


def write_blobs(path: Path) -> Path:
    """Write the harmless one as TorchScript, with its sidecar."""
    return _write(Blobs(), path)


def write_trap(path: Path, marker: Path) -> Path:
    """Write the other one; ``marker`` exists once it has run."""
    return _write(Trap(marker), path)


def _write(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        torch.jit.save(torch.jit.script(module.eval()), path)
    path.with_suffix(".json").write_text(json.dumps(SIDECAR))
    return path
