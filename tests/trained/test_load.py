"""The model file: found, refused with a reason, read like the run read its images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import mpssl_fed
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.mnist import from_28
from mpssl_fed.errors import UserError
from mpssl_fed.trained import Trained, load_trained
from tests.trained.conftest import save


def test_a_model_file_alone_gives_the_same_classifier(trained: Trained, held_out: Images, tmp_path: Path) -> None:
    alone = load_trained(shutil.copy(trained.file, tmp_path / "model.safetensors"), "cpu")
    assert alone.classes == tuple("0123456789")
    assert torch.equal(alone.logits(held_out.x), trained.logits(held_out.x))
    assert not alone.classifier.training


def test_a_run_that_does_not_exist_is_named_with_its_neighbour(run: mpssl_fed.Run) -> None:
    with pytest.raises(UserError, match=r"does not exist. Did you mean '.*/run'\? Want a run directory"):
        load_trained(run.folder.parent / "rum")


def test_a_run_without_a_model_yet(run: mpssl_fed.Run, tmp_path: Path) -> None:
    shutil.copy(run.folder / "config.yaml", tmp_path)
    with pytest.raises(UserError, match=r"model\.safetensors: no such file.*resume=True"):
        load_trained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_of_another_kind(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: not a model of this toolkit"):
        load_trained(file)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(trained: Trained, poison: float, tmp_path: Path) -> None:
    with safe_open(trained.file, framework="pt") as content:
        metadata = content.metadata()
    state = safetensors.torch.load_file(trained.file)
    state["head.bias"][3] = poison
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", metadata)
    for load in (load_trained, mpssl_fed.load):
        with pytest.raises(UserError, match=r"weights that are not finite in head\.bias"):
            load(tmp_path)


def test_a_device_that_is_not_there(trained: Trained) -> None:
    with pytest.raises(UserError, match="--device abacus cannot be used here"):
        load_trained(trained.file, "abacus")


def test_28_pixel_digits_are_padded_as_the_run_padded_them(trained: Trained, held_out: Images, tmp_path: Path) -> None:
    inner = held_out.x[:3, :, 2:30, 2:30]
    files = [save(x, tmp_path / f"{i}.png") for i, x in enumerate(inner)]
    assert torch.equal(trained.read(files), from_28(inner, 32))
    assert torch.equal(trained.read(files), held_out.x[:3])


def test_files_of_the_runs_size_are_read_bit_for_bit(trained: Trained, held_out: Images, folder: Path) -> None:
    files = sorted(folder.rglob("*.png"), key=lambda file: file.name)
    assert torch.equal(trained.read(files), held_out.x)
