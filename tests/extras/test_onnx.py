"""export --format onnx: what ONNX Runtime computes from the file is what the classifier computes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mpssl_fed
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.preparation import Fit
from mpssl_fed.models import Architecture, build_classifier
from mpssl_fed.trained import Trained, export, load_trained, predict
from tests.documents.test_documents import test_page_in_short as assert_page_in_short
from tests.trained.conftest import held_out, run, trained
from tests.trained.test_preparation import fitted

ABSENT = "the extra [onnx] is not installed: make test-extras"
onnx, onnxruntime, _ = (pytest.importorskip(name, reason=ABSENT) for name in ("onnx", "onnxruntime", "onnxscript"))

__all__ = ["fitted", "held_out", "run", "trained"]
PAGE = "docs/own-data.md"
Cli = Callable[..., tuple[int, str, str]]


def test_onnx_names_real_digits_as_the_classifier_does(trained: Trained, held_out: Images, tmp_path: Path) -> None:
    exported = export(trained, "onnx", tmp_path / "digits.onnx")
    assert exported.difference < 1e-4
    onnx.checker.check_model(onnx.load(exported.file), full_check=True)
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    x = held_out.floats()
    for n in (1, 150):
        (logits,) = session.run(None, {"images": x[:n].numpy()})
        np.testing.assert_allclose(logits, trained.logits(held_out.x[:n]).numpy(), atol=1e-4)
    props = session.get_modelmeta().custom_metadata_map
    assert json.loads(props["classes"]) == list(trained.classes)
    assert props["normalisation"] == "pixel / 127.5 - 1 for pixels 0..255"
    assert props["input"] == "images: float32 [n, 1, 32, 32] in [-1, 1]"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hog", "pixels", "resnet18", "resnet50"])
def test_every_kind_of_body_in_onnx(name: str, tmp_path: Path) -> None:
    model = build_classifier(Architecture(name, ("a", "b", "c"), 3, 64, "batch")).eval()
    assert export(Trained(model, tmp_path / "model.safetensors", None), "onnx").difference < 1e-3


def test_the_documented_example_gives_predicts_numbers(fitted: tuple[Fit, mpssl_fed.Run, Path], tmp_path: Path) -> None:
    """Run the page's own code on odd files, in a process that has neither torch nor this package."""
    _, run, root = fitted
    trained = load_trained(run.folder, "cpu")
    export(trained, "onnx", tmp_path / "model.onnx")
    rng = np.random.default_rng(1)
    wide = rng.integers(0, 256, (90, 211, 4), dtype=np.uint8)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)).resize((640, 853), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [tmp_path / name for name in ("alpha.png", "grey.png", "phone.jpg", "palette.png", "clear.png")]
    Image.fromarray(wide).save(files[0])
    Image.fromarray(wide[..., 0]).save(files[1])
    smooth.save(files[2], quality=92, exif=exif)
    Image.fromarray(wide[..., :3]).convert("P").save(files[3])
    Image.fromarray(wide[..., 0]).save(files[4], transparency=7)
    files += sorted((root / "test").rglob("*.png"))
    (code,) = re.findall(r"```python\n(import json.*?)```", (Path(__file__).parents[2] / PAGE).read_text(encoding="utf-8"), re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    (tmp_path / "example.py").write_text(code)
    loop = (
        "import json, runpy, shutil, sys\n"
        "for file in sys.argv[1:]:\n"
        "    shutil.copy(file, 'new-image.png')\n"
        "    found = runpy.run_path('example.py')['probabilities']\n"
        "    print(json.dumps({name: float(p) for name, p in found.items()}))\n"
        "assert not {'torch', 'mpssl_fed', 'torchvision'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", loop, *files], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    for one, other in zip(predict(trained, files), theirs, strict=True):
        assert other == pytest.approx(one.probabilities, abs=1e-3), one.file


def test_the_page_with_its_export_is_done_as_it_says(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_page_in_short(PAGE, cli, tmp_path, monkeypatch)
