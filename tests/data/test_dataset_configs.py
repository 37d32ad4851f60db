from __future__ import annotations

from pathlib import Path

import pytest

from mpssl_fed.config import load
from mpssl_fed.data.datasets import DATASETS, load_dataset

FOLDER = Path(__file__).parents[2] / "configs" / "datasets"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_config_names_a_data_set(path: Path) -> None:
    data = load(path, []).data
    assert data.name.partition("/")[0] in DATASETS
    assert (data.labels_per_class is None) != (data.label_fraction is None)


def test_every_data_set_has_a_config() -> None:
    assert {load(path, []).data.name.partition("/")[0] for path in FILES} == set(DATASETS.names()) - {"hf"}


def test_the_default_needs_no_download() -> None:
    data = load(FOLDER / "mnist-5k.yaml", []).data
    assert load_dataset(data.name, data.root, data.size, data.download).size == 32
