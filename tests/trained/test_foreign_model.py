"""A model file of somebody else: its header opens no path, runs nothing, and takes no more memory than the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from mpssl_fed.errors import UserError
from mpssl_fed.trained import Trained, load_trained

DEEP = "[" * 100_000
BAD: dict[str, dict[str, Any]] = {
    "a path to open": {"name": "resnet18", "pretrained": "TRAP"},
    "a path beside a body that takes none": {"pretrained": "TRAP"},
    "a path as a name": {"name": "../../TRAP"},
    "an import as a name": {"name": "os:system"},
    "no known name": {"name": "evil"},
    "a seed": {"seed": 1},
    "a billion pixels": {"size": 10**9},
    "pixels below 0": {"size": -32},
    "pixels of a fraction": {"size": 32.5},
    "pixels as text": {"size": "32"},
    "a thousand channels": {"channels": 1000},
    "two classes for ten": {"classes": ["a", "b"]},
    "a million classes": {"classes": [str(i) for i in range(1_000_000)]},
    "numbers for classes": {"classes": list(range(10))},
    "text for classes": {"classes": "0123456789"},
    "a name of a megabyte": {"classes": ["x" * 1_000_000] * 10},
    "another norm": {"norm": "spectral"},
    "another body of the same head": {"name": "resnet18"},
    "a list for the whole": {"architecture": "[]"},
    "a depth beyond any stack": {"architecture": DEEP},
    "a missing key": {"architecture": json.dumps({"name": "small-cnn"})},
}


@pytest.fixture
def disguised(trained: Trained, tmp_path: Path) -> Callable[..., Path]:
    """``disguised(changes)`` -> a copy of the model whose header says something else."""
    with safe_open(trained.file, framework="pt") as content:
        metadata = content.metadata()

    def write(changes: dict[str, Any], tensors: dict[str, torch.Tensor] | None = None) -> Path:
        said = changes.get("architecture") or json.dumps(json.loads(metadata["architecture"]) | changes)
        state = safetensors.torch.load_file(trained.file) | (tensors or {})
        safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata | {"architecture": said})
        return tmp_path / "model.safetensors"

    return write


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
def test_what_a_header_may_not_say(disguised: Callable[..., Path], changes: dict[str, Any], tmp_path: Path) -> None:
    trap = tmp_path / "TRAP"
    os.mkfifo(trap)  # whoever opened it would wait here for ever
    changes = {key: value.replace("TRAP", str(trap)) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(UserError, match=r"model\.safetensors: (not a model of this toolkit|unknown models)|unknown models 'evil'"):
        load_trained(disguised(changes), "cpu")


def test_tensors_that_are_not_those_of_the_body(disguised: Callable[..., Path]) -> None:
    for tensors in ({"more": torch.zeros(3)}, {"head.bias": torch.zeros(11)}, {"body.stem.weight": torch.zeros(1)}):
        with pytest.raises(UserError, match=r"its tensors are not those of 'small-cnn'"):
            load_trained(disguised({}, tensors), "cpu")


def test_the_true_header_is_read(disguised: Callable[..., Path]) -> None:
    assert load_trained(disguised({}), "cpu").classifier.name == "small-cnn"
