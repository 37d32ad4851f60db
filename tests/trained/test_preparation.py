"""How an image becomes an input stands in the model file; training, sites, predict, evaluate and exports follow it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from safetensors import safe_open

import mpssl_fed
from mpssl_fed.config import from_mapping
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.folder import load_site_folder
from mpssl_fed.data.preparation import FITS, Fit, Preparation
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.server.deployed_run import for_sites, with_task
from mpssl_fed.runs.model_file import read_preparation
from mpssl_fed.trained import evaluate_folder, export, load_trained

Cli = Callable[..., tuple[int, str, str]]


def wide_images(root: Path, n: int = 3, colour: bool = True) -> Path:
    """Images whose classes differ at their far left and right alone: what a crop cuts off."""
    rng = np.random.default_rng(0)
    for part, count in (("train", n), ("test", 2)):
        for label, name in enumerate(("left", "right")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (24, 60, 3) if colour else (24, 60), dtype=np.uint8)
                pixels[:, slice(44, 60) if label else slice(0, 16)] += 180
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def config_of(root: Path, fit: str = "crop") -> dict[str, object]:
    return {
        "data": {"name": "image-folder", "root": str(root), "labels_per_class": 2, "size": 24, "fit": fit},
        "method": {"name": "base"},
        "federation": {"sites": 1, "rounds": 1, "local_steps": 3},
        "runtime": {"device": "cpu"},
    }


@pytest.fixture(scope="module", params=FITS)
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fit, mpssl_fed.Run, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    root = wide_images(folder / "photos", colour=request.param != "squash")
    run = mpssl_fed.simulate(config_of(root, request.param), f"output.dir={folder / 'run'}")
    return request.param, run, root


def test_all_read_as_the_run_was_trained(fitted: tuple[Fit, mpssl_fed.Run, Path]) -> None:
    fit, run, root = fitted
    assert read_preparation(run.folder) == Preparation(fit=fit)
    trained, data = load_trained(run.folder, "cpu"), parts.dataset(run.config)
    files = sorted((root / "test").rglob("*.png"))
    assert torch.equal(trained.read(files), data.test.x)
    assert evaluate_folder(trained, root / "test").accuracy == pytest.approx(run.accuracy)
    channels = data.channels
    site = load_site_folder(root / "test", data.classes, 24, channels, prepared=Preparation(fit=fit))
    assert torch.equal(site.x, data.test.x)
    sent = for_sites(with_task(run.config))
    assert sent.data.task is not None
    assert sent.data.task.fit == fit
    own = OwnData(root / "test", data.classes, size=24, channels=channels, fit=fit)
    assert torch.equal(own.labelled(sent).x, data.test.x)
    with pytest.raises(Refusal) as refused:
        replace(own, fit="crop" if fit != "crop" else "pad").labelled(sent)
    assert refused.value.code == "image-shape"
    away = sent.model_copy(update={"data": sent.data.model_copy(update={"name": "none"})})
    assert parts.preparation(away) == Preparation(fit=fit)


def test_a_crop_cuts_off_what_the_other_two_keep(tmp_path: Path) -> None:
    root = wide_images(tmp_path / "photos")
    bright = {fit: int(load_dataset("image-folder", root, 24, prepared=Preparation(fit=fit)).train.x.max()) for fit in FITS}
    assert bright["crop"] < 60
    assert min(bright["pad"], bright["squash"]) > 180


def test_exports_and_model_say_how_to_prepare(fitted: tuple[Fit, mpssl_fed.Run, Path], tmp_path: Path) -> None:
    fit, run, _ = fitted
    trained = load_trained(run.folder, "cpu")
    extra = {"metadata.json": ""}
    torch.export.load(export(trained, out=tmp_path / "model.pt2").file, extra_files=extra)
    with safe_open(trained.file, framework="pt") as content:
        header = content.metadata()
    for said in (json.loads(extra["metadata.json"]), {key: json.loads(header[key]) for key in ("preprocessing", "classes")}):
        assert said["classes"] == ["left", "right"]
        how = said["preprocessing"]
        assert (how["fit"], how["size"], how["central"]) == (fit, 24, 1.0)
        assert how["channels"] == trained.classifier.channels
        assert how["scale"] == "pixel / 127.5 - 1 for pixels 0..255"
        assert "bilinear" in how["resize"]


def test_export_by_default_needs_no_extra(cli: Cli, run: mpssl_fed.Run, tmp_path: Path) -> None:
    status, out, error = cli("export", run.folder, "--out", tmp_path / "model.pt2")
    assert (status, error) == (0, "")
    assert out.startswith(f"{tmp_path / 'model.pt2'}: images float32")


@pytest.mark.parametrize(("data", "wanted"), [
    ("mnist-5k", Preparation(pads_28=True)), ("birds", Preparation(central=224 / 256)),
    ("cifar10", Preparation()), (None, Preparation()),
])  # fmt: skip
def test_models_of_versions_that_did_not_say_it(run: mpssl_fed.Run, data: str | None, wanted: Preparation, tmp_path: Path) -> None:
    strip_header(run.folder / "model.safetensors", tmp_path / "model.safetensors", "preparation", "preprocessing", "classes")
    if data is not None:
        fields = yaml.safe_load((run.folder / "config.yaml").read_text())
        fields["data"]["name"] = data
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(fields))
    assert read_preparation(tmp_path) is None
    assert load_trained(tmp_path, "cpu").preparation == wanted


def strip_header(source: Path, target: Path, *keys: str, **other: str) -> None:
    with safe_open(source, framework="pt") as content:
        header = {key: value for key, value in content.metadata().items() if key not in keys}
    target.write_bytes(safetensors.torch.save(safetensors.torch.load_file(source), header | other))


FIELDS = asdict(Preparation())


@pytest.mark.parametrize(
    "text",
    [
        *["", "[]", "{}", "null", '{"fit": "crop"}'],
        *[json.dumps(FIELDS | {key: value}) for key, values in {
            "fit": ("zoom", None, 1), "central": (0, 1.5, math.nan, "1"), "pads_28": ("no", 1),
            "white_level": (-3, math.inf, "4095"), "x": (1,),
            "window": ([], [40], [40, 0.5], [math.nan, 9], ["40", 9], [True, 9], {"center": 40, "width": 400}, 40, [10**400, 9]),
        }.items() for value in values],
        json.dumps(FIELDS | {"fit": "pad", "central": 0.5}),
        json.dumps(FIELDS | {"white_level": 4095, "window": [40, 400]}),
    ],
)  # fmt: skip
def test_a_preparation_that_is_not_understood_is_refused(run: mpssl_fed.Run, text: str, tmp_path: Path) -> None:
    strip_header(run.folder / "model.safetensors", tmp_path / "model.safetensors", preparation=text)
    with pytest.raises(UserError, match=r"model\.safetensors: not a model of this version"):
        load_trained(tmp_path, "cpu")


def test_white_level_goes_from_config_and_command_to_the_pixels(cli: Cli, tmp_path: Path) -> None:
    root = wide_images(tmp_path / "photos", colour=False)
    for file in root.rglob("*.png"):
        with Image.open(file) as image:
            twelve = np.asarray(image).astype(np.uint16) * 16
        Image.fromarray(twelve).save(file)
    with pytest.raises(UserError, match=r"no pixel is above .*set|say what white is: data\.white_level=4095"):
        parts.dataset(from_mapping(config_of(root)))
    fields = config_of(root, "squash")
    fields["data"]["white_level"] = 4095  # type: ignore[index]
    run = mpssl_fed.simulate(fields, f"output.dir={tmp_path / 'run'}")
    file = next((root / "test").rglob("*.png"))
    expected = load_trained(run.folder).read([file])
    assert int(expected.max()) > 150
    assert read_preparation(run.folder) == Preparation(fit="squash", white_level=4095)
    alone = tmp_path / "alone"
    alone.mkdir()
    strip_header(run.folder / "model.safetensors", alone / "model.safetensors", "preparation")
    assert cli("predict", alone, file)[0] == 2
    assert cli("predict", alone, file, "--white-level", "4095")[0] == 0
    assert cli("evaluate", alone, root / "test", "--white-level", "4095")[0] == 0
    assert cli("predict", alone, file, "--white-level", "-1")[0] == 2
    site = OwnData(root / "test", ("left", "right"), size=24, channels=1, fit="squash", white_level=4095)
    assert site.check() == ""
    assert int(site.images().x.max()) == int(
        load_dataset("image-folder", root, 24, prepared=Preparation("squash", white_level=4095)).test.x.max()
    )
    assert for_sites(run.config).data.white_level is None


@pytest.mark.parametrize("name", ["mnist-5k", "fashion-mnist", "birds"])
def test_sets_with_their_own_way_refuse_another(name: str) -> None:
    with pytest.raises(UserError, match=rf"data set '{name}' has its own way of reading images; leave out data.fit=pad"):
        load_dataset(name, prepared=Preparation(fit="pad"))


def test_a_copied_model_file_keeps_its_way(fitted: tuple[Fit, mpssl_fed.Run, Path], tmp_path: Path) -> None:
    fit, run, _ = fitted
    alone = shutil.copy(run.folder / "model.safetensors", tmp_path / "elsewhere.safetensors")
    assert load_trained(alone, "cpu").preparation == Preparation(fit=fit)
