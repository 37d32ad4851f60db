"""export: the file computes what the classifier computes, for any batch size and every architecture."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import mpssl_fed
from mpssl_fed.data.datasets import Images
from mpssl_fed.errors import UserError
from mpssl_fed.models import Architecture, Classifier, build_classifier
from mpssl_fed.trained import Trained, export

Cli = Callable[..., tuple[int, str, str]]


def test_torch_export_through_the_command(cli: Cli, run: mpssl_fed.Run, trained: Trained, held_out: Images) -> None:
    status, text, _ = cli("export", run.folder, "--format", "torch-export")
    file = run.folder / "model.pt2"
    assert status == 0
    assert text.startswith(f"{file}: images float32 [n, 1, 32, 32] in [-1, 1] -> logits [n, 10]; largest difference")
    extra = {"metadata.json": ""}
    program = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["classes"] == list(trained.classes)
    with torch.no_grad():
        for n in (1, 150):
            torch.testing.assert_close(program(held_out.floats()[:n]), trained.logits(held_out.x[:n]), atol=1e-5, rtol=0)
    status, _, error = cli("export", run.folder, "--format", "torch-export")
    assert status == 2
    assert f"--out {file} exists; choose another file or add --overwrite" in error


@pytest.mark.parametrize(
    ("name", "channels", "size", "norm"),
    [
        ("small-cnn", 3, 28, "batch"),
        ("hog", 1, 28, "group"),
        ("pixels", 3, 28, "group"),
        pytest.param("resnet18", 1, 32, "group", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_body(name: str, channels: int, size: int, norm: str, tmp_path: Path) -> None:
    model = build_classifier(Architecture(name, ("a", "b", "c"), channels, size, norm)).eval()
    assert export(Trained(model, tmp_path / "model.safetensors", None), "torch-export").difference < 1e-4
    assert (tmp_path / "model.pt2").is_file()


def test_a_file_that_computes_something_else_never_takes_the_place_of_a_good_one(tmp_path: Path) -> None:
    good = tmp_path / "model.pt2"
    good.write_text("of before")
    (tmp_path / "model.safetensors").touch()
    body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    model = Classifier(body, 1024, Architecture("dropout left on", ("a", "b"), 1, 32)).train()
    with pytest.raises(UserError, match=r"--format torch-export: logits differ by .* was not written"):
        export(Trained(model, tmp_path / "model.safetensors", None), "torch-export", overwrite=True)
    assert good.read_text() == "of before"
    assert len(list(tmp_path.iterdir())) == 2


def test_bad_arguments(cli: Cli, run: mpssl_fed.Run, trained: Trained, tmp_path: Path) -> None:
    status, _, error = cli("export", run.folder, "--format", "onxx")
    assert (status, error) == (2, "error: --format onxx: unknown. Did you mean 'onnx'? Known: onnx, torch-export, hub\n")
    with pytest.raises(UserError, match=f"--out {tmp_path} exists; choose another file$"):
        export(trained, "onnx", tmp_path, overwrite=True)


def test_without_the_extra_the_error_names_it(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name.startswith("onnx") else find(name, package)
    )
    with pytest.raises(UserError, match=r"onnx, onnxscript, onnxruntime not installed; pip install 'mpssl-fed\[onnx\]'"):
        export(trained, "onnx", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
