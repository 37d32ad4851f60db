"""Shares of a simulation as files hold what the simulated sites held, equal pixels and odd names included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from mpssl_fed.config import from_mapping
from mpssl_fed.data.folder import load_site_csv
from mpssl_fed.deployment.own_data import OwnData
from mpssl_fed.deployment.private_shares import write_share
from mpssl_fed.deployment.rehearsal import Deployment
from mpssl_fed.federation import parts
from mpssl_fed.federation.server.deployed_run import for_sites


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


def test_the_sites_of_a_list_hold_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a rehearsal prepares it: the list by a path from where the user stands, sites by name, patients as the list names them."""
    lines = ["path,label,subject,site"]
    for i in range(24):
        Image.new("L", (16, 16), 8 * i).save(tmp_path / f"{i}.png")
        site = ("Lyon 10", "Lyon 2", "Basel")[i % 3]
        lines.append(f'{i}.png,"{("benign", "malignant, grade 2")[i // 3 % 2]}",{site}-{i // 6},{site}')
    (tmp_path / "list.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    data = {"name": "image-csv", "root": "list.csv", "labels_per_class": None, "label_fraction": 1.0, "size": 16}
    asked = {"data": data | {"partition": {"name": "column"}}, "federation": {"sites": 3}, "method": {"name": "base"}}
    config = Deployment(from_mapping(asked), tmp_path / "run", note=lambda _: None).config
    monkeypatch.chdir("/")
    assert parts.site_names(config) == ["Basel", "Lyon 2", "Lyon 10"]
    for site, name in enumerate(("Basel", "Lyon 2", "Lyon 10")):
        own = OwnData(write_share(tmp_path / f"share {site}", config, site), parts.task(config).classes, size=16, channels=1)
        assert own.check() == ""
        assert torch.equal(own.labelled(for_sites(config)).x, parts.labelled(config, site).x)
        assert {subject.rpartition("-")[0] for subject in own.images().subjects or ()} == {name}
