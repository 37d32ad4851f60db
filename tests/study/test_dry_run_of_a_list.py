"""A study of a list before anything is decoded: the images that a run would find, dealt as a run would deal them, its costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpssl_fed.config import load
from mpssl_fed.data import decode
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.study.dry_run.built import smallest_share
from mpssl_fed.study.dry_run.estimate import estimate
from mpssl_fed.study.dry_run.known_data import known_data
from mpssl_fed.study.grid import load_study

Cli = Callable[..., tuple[int, str, str]]
COLUMNS = ("path", "label", "subject", "site", "split")


def listed(folder: Path, *columns: str) -> Path:
    """Write a list, in no order of classes, of 72 images at three sites of unlike size, with those of ``columns`` it may have."""
    rng = np.random.default_rng(0)
    lines = [",".join(("path", "label", *columns))]
    for i in range(72):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{i}.png")
        site = 2 if i < 12 else i // 4 % 2
        said = {"subject": f"p{i // 4}", "site": f"hospital {5 * site}", "split": "test" if i // 4 % 6 == 5 else "train"}
        lines.append(",".join((f"{i}.png", ("cat", "dog", "ape")[i % 3], *(said[column] for column in columns))))
    file = folder / f"{'-'.join(columns) or 'bare'}.csv"
    file.write_text("\n".join(lines))
    return file


@pytest.mark.parametrize("columns", [(), ("subject",), ("site",), ("subject", "site", "split"), ("site", "split")])
@pytest.mark.parametrize("partition", ["iid", "column", "dirichlet"])
def test_it_deals_as_the_run_does(
    columns: tuple[str, ...], partition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = listed(tmp_path, *columns)
    config = load("datasets/image-csv", [f"data.root={file}", "data.labels_per_class=4", f"data.partition.name={partition}"])
    with monkeypatch.context() as sealed:
        sealed.setattr(decode, "read_image", lambda *_: pytest.fail("decoded"))
        known = known_data(config)
        assert known is not None
        if partition == "column" and "site" not in columns:
            with pytest.raises(UserError, match="these data name no site"):
                smallest_share(config, known)
            return
        smallest = smallest_share(config, known)
    data = parts.dataset(config)
    assert known.labels().tolist() == data.train.y.tolist()
    assert (known.subjects, known.sites, known.test) == (data.train.subjects, data.train.sites, len(data.test))
    assert (known.classes, known.channels) == (3, 1)
    assert smallest == min(map(len, parts.shares(config)))
    tuned = config.model_copy(update={"data": config.data.model_copy(update={"held_out": "validation"})})
    slice_of = known.validation_split(tuned.data.held_out_fraction)
    pool = parts.dataset(tuned)
    assert (slice_of.train, slice_of.test, len(slice_of.order)) == (len(pool.train), len(pool.test), len(pool.train))
    assert slice_of.counts == tuple(pool.train.y.bincount().tolist())
    if "subject" in columns:
        assert (slice_of.subjects, slice_of.sites) == (pool.train.subjects, pool.train.sites)


def test_it_estimates_each_arm_with_and_without_privacy(tmp_path: Path, cli: Cli) -> None:
    file = listed(tmp_path, "site", "split")
    asked = ["data.name=image-csv", f"data.root={file}", "data.partition.name=column"]
    code, said, _ = cli("study", "own", *asked, "--dry-run")
    assert code == 0
    assert "Not estimated" not in said
    assert "missing" not in said
    lines = [line for line in said.splitlines() if line.startswith(("base ", "warm body", "mp-ssl", "federated-gssl"))]
    assert len(lines) == 4
    assert all(line.split()[-1].isdigit() for line in lines)
    private = ["privacy.epsilon=2", "privacy.public_size=40"]
    one = estimate(load_study("own", [*asked, *private]).cells[0])
    assert one is not None
    assert one.steps > 0


def test_what_a_run_refuses_it_refuses(tmp_path: Path, cli: Cli) -> None:
    file = listed(tmp_path, "site")
    asked = ("data.name=image-csv", f"data.root={file}", "data.partition.name=column", "--dry-run")
    code, _, said = cli("study", "own", *asked, "federation.sites=2")
    assert code == 2
    assert "names 3 sites (hospital 0, hospital 5, hospital 10); set federation.sites=3" in said
    broken = tmp_path / "broken.csv"
    broken.write_text(file.read_text() + "\ngone.png,cat,hospital 0\n")
    code, _, said = cli("study", "own", "data.name=image-csv", f"data.root={broken}", "--dry-run")
    assert code == 2
    assert "line 74: image file 'gone.png' does not exist" in said
    code, said, _ = cli("study", "own", "data.name=image-csv", f"data.root={tmp_path / 'none.csv'}", "--dry-run")
    assert code == 0
    assert "missing: data.root" in said
