"""Shares of a simulation as files hold what the simulated sites held, equal pixels and odd names included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from mpssl_fed.config import from_mapping
from mpssl_fed.data.folder import load_site_csv
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.federation import parts


@pytest.mark.parametrize("subjects", [None, "parent"])
def test_equal_pixels_of_different_files_stay_apart(tmp_path: Path, subjects: str | None) -> None:
    for label, name in enumerate(("a, b", 'say "x"\n')):
        for i in range(4):
            file = tmp_path / "photos" / "train" / name / ("" if subjects is None else f"p{i}") / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (20 + i, 30 + label)).save(file)  # black frames, each of its own size
    data = {"name": "image-folder", "root": str(tmp_path / "photos"), "labels_per_class": None, "label_fraction": 1.0, "size": 16}
    config = from_mapping({"data": data | {"subjects": subjects}, "federation": {"sites": 1}, "method": {"name": "base"}})
    held, task = parts.labelled(config, 0), parts.task(config)
    read = load_site_csv(write_share(tmp_path / "share", config, 0), task.classes, 16, 1)
    assert len(held) >= 6
    assert torch.equal(read.x, held.x)
    assert torch.equal(read.y, held.y)
    assert read.subjects == held.subjects
