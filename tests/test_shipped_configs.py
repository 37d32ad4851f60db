"""Every config that ships trains to far above chance: a table of floors, and what cannot run here with its reason."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpssl_fed
from mpssl_fed.config import config_folder, load
from mpssl_fed.data import mnist
from mpssl_fed.report.chance import at_chance
from mpssl_fed.runs.reader import RunReader
from mpssl_fed.study.grid import Cell, load_study
from tests.data.test_fine_grained import build
from tests.data.test_medmnist import medmnist_file
from tests.data.test_omniglot import files, pack
from tests.documents.spelling import misspelt
from tests.shapes import shapes_folder

FASHION = any((folder / "t10k-labels-idx1-ubyte.gz").is_file() for folder in mnist._system_folders())


@dataclass(frozen=True)
class Floor:
    """What a config has to end with. cell: of a study, settings of the one that is run, with its first seed."""

    least: float
    overrides: tuple[str, ...] = ()
    cell: dict[str, Any] = field(default_factory=dict)
    light: bool = False


HALF = {"method.augment": "half-strong"}
TWO_DIGITS = {"data.partition": {"name": "pathological", "classes_per_site": 2}, "generator.name": "glyphs-digits", **HALF}
PIXELS = {"variant": "pixel head", "privacy.epsilon": 1.0, "warm_start.part": "none"}
SHAPES, LIST = ("data.root=shapes",), ("data.root=list.csv", "data.labels_per_class=null", "data.label_fraction=1")
FLOORS = {
    "datasets/image-csv": Floor(0.6, LIST),
    "datasets/image-folder": Floor(0.6, SHAPES),  # 75.8
    "datasets/mnist-5k": Floor(0.6),  # 92.2
    "datasets/fashion-mnist": Floor(0.4),  # 68.9
    "demo": Floor(0.5),  # 72.2
    "own": Floor(0.7, SHAPES),  # 92.5
    "privacy/end-to-end": Floor(0.6),  # 81.5
    "privacy/shared-noise": Floor(0.6),  # 86.3
    "privacy/labelled-step": Floor(0.4),  # 78.1
    "privacy/mp-ssl": Floor(0.4),  # 79.5
    "privacy/trade-off": Floor(0.6, ("privacy.epsilon=1", "warm_start.part=both", "model.trainable=head", "optim.lr=0.5")),  # 89.3
    "studies/demo": Floor(0.6, cell={"method.name": "federated-gssl"}),  # 84.0
    "studies/generators": Floor(0.6, cell={"variant": "vic-gssl", "generator.name": "glyphs-digits-vqvae", **HALF}),  # 91.2
    "studies/latents": Floor(0.3, cell={"variant": "lmo + vicreg", "generator.name": "glyphs-digits"}),  # 58.9 of 20 seeds
    "studies/trust": Floor(0.6, cell={"variant": "sum", "data.name": "mnist-5k"}),  # 84
    "studies/methods-federated": Floor(0.6, cell={"variant": "base + anchor + warm", **TWO_DIGITS}),  # 88.8
    "studies/methods-federated-half-strong": Floor(0.6, cell={"variant": "vic-gssl + anchor + warm", **TWO_DIGITS}),  # 89.5
    "studies/methods-one-site": Floor(
        0.6, cell={"variant": "base", "data.labels_per_class": 4, "warm_start.part": "none", **HALF}, light=True
    ),
    "studies/own": Floor(0.6, SHAPES, cell={"variant": "federated-gssl"}),  # 92.5
    "studies/privacy-utility": Floor(
        0.6, cell={"variant": "head", "method.name": "base", "warm_start.part": "both", "privacy.epsilon": 1.0}
    ),  # 88.7
    "studies/privacy-utility-mnist": Floor(0.45, cell=PIXELS, light=True),  # 62.1
    "studies/privacy-utility-fashion": Floor(0.5, cell=PIXELS),  # 67.3
    "studies/recipe": Floor(0.7, cell={"variant": "federated-gssl", "generator.name": "glyphs-digits"}),  # 93.8
    "studies/recipe-tuning": Floor(0.6, cell={"warm_start.part": "body", "federation.anchor.weight": 1}),  # 83.5
    "studies/tuning": Floor(0.6, cell={"method.name": "ssl-real", "method.lambda": 1.0, **HALF}),  # 92.8
}
"""Config -> least accuracy, 0..1. Chance is .1 of digits and garments, .33 of three shapes; most with what was measured."""

MINIATURE = ("aircraft", "birds", "bloodmnist", "cars", "cifar10", "dtd", "flowers", "omniglot", "pets")
"""Data sets whose images are not here (`mpssl-fed fetch`): they train for two steps on miniature files of the same format, too
few for a floor."""

NOT_HERE = {
    "studies/selection": "needs Omniglot: tests/study/test_studies_of_other_data.py runs arms of it on drawings of its own",
    "policies/site": "is a site's policy, not a run: tests/privacy/test_policy.py holds it against the configs",
    "studies/cells": "needs blood cells and ImageNet weights: tests/study/test_studies_of_other_data.py runs it on files it writes",
    "studies/paper-10pct": "needs six data sets, BigGAN-deep and a pretrained ResNet: tests/study/test_shipped_studies.py plans it",
}
"""Config -> why it is not run."""


def cifar_files(folder: Path) -> None:
    """Write CIFAR-10 in its binary layout, two random images of each class a file."""
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (20, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(20) % 10
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records.tofile(folder / name)


def shipped() -> set[str]:
    """Return the names of all configs."""
    return {str(file.relative_to(config_folder()).with_suffix("")) for file in config_folder().rglob("*.yaml")}


def test_every_config_has_a_floor_or_a_reason_and_no_entry_is_stale() -> None:
    named = [*FLOORS, *(f"datasets/{name}" for name in MINIATURE), *NOT_HERE]
    assert sorted(named) == sorted(shipped())


def test_a_floor_is_far_above_chance() -> None:
    assert all(floor.least >= (0.6 if floor.overrides in (SHAPES, LIST) else 0.3) for floor in FLOORS.values())


@pytest.mark.parametrize("name", sorted(shipped()))
def test_commands_in_its_comments_fit_it(name: str) -> None:
    """Their subcommands and options exist, and what they simulate or study are configs with keys that are taken."""
    for text in re.findall(r"^#.*?(mpssl-fed .*?)(?:`|  |$)", (config_folder() / f"{name}.yaml").read_text(encoding="utf-8"), re.M):
        assert misspelt(text) is None
        what, config, *words = text.split()[1:]
        overrides = list(itertools.takewhile(lambda word: "=" in word, words))
        if what in ("simulate", "study"):
            assert (load if what == "simulate" else load_study)(config, overrides)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if floor.light else pytest.mark.slow) for name, floor in FLOORS.items()]
)
def test_it_learns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floor = FLOORS[name]
    monkeypatch.chdir(tmp_path)
    if floor.overrides in (SHAPES, LIST):
        shapes_folder(Path("shapes"))
        images = sorted(Path("shapes").rglob("*.png"))
        rows = [f"{file},{file.parent.name},centre {i % 3},{file.parts[1]}\n" for i, file in enumerate(images)]
        Path("list.csv").write_text("path,label,site,split\n" + "".join(rows), encoding="utf-8")
    cell = chosen(name, floor) if name.startswith("studies/") else None
    if not FASHION and "fashion" in name:
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    run = mpssl_fed.simulate(cell.config, output="run") if cell else mpssl_fed.simulate(name, *floor.overrides, output="run")
    print(f"{name}: {run.accuracy:.4f}, floor {floor.least}")
    assert run.accuracy >= floor.least
    assert not at_chance(RunReader(Path("run")))


def chosen(name: str, floor: Floor) -> Cell:
    """Return the first cell of a study that has the settings."""
    cells = load_study(name, floor.overrides).cells
    return next(one for one in cells if all(_has(one.settings.get(key), value) for key, value in floor.cell.items()))


def _has(own: Any, want: Any) -> bool:
    return all(_has(own.get(key), value) for key, value in want.items()) if isinstance(want, dict) else own == want


@pytest.mark.parametrize(
    "name", [name if name in ("bloodmnist", "omniglot") else pytest.param(name, marks=pytest.mark.slow) for name in MINIATURE]
)
def test_it_trains_on_miniature_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "images"
    root.mkdir()
    if name == "bloodmnist":
        medmnist_file(root / "bloodmnist.npz", (28, 28, 3))
    elif name == "omniglot":
        pack(root, "images_background_small2", files("Sanskrit"))
    elif name == "cifar10":
        cifar_files(root / "cifar-10-batches-bin")
    else:
        build(name, root, monkeypatch)
    few = ["data.labels_per_class=null", "data.label_fraction=1", "method.batch=4", "method.lmo_batch=4", "method.lmo_every=1"]
    steps = ["federation.sites=1", "federation.rounds=1", "federation.local_steps=2", "method.warmup=0"]
    run = mpssl_fed.simulate(f"datasets/{name}", f"data.root={root}", *few, *steps, output=tmp_path / "run")
    assert run.history[-1].answered == 1
    assert (run.history[-1].generated or 0) > 0
    assert 0 <= run.accuracy <= 1
