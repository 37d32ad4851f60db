"""MedMNIST by name, on files of the published form that are written here: no network is at hand, so no official file is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mpssl_fed.cli.data import app
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.fetch import ARCHIVES, Archive, fetch_dataset
from mpssl_fed.data.formats import medmnist
from mpssl_fed.data.formats.medmnist_table import KNOWN, MULTI_LABEL
from mpssl_fed.errors import UserError
from tests.data.test_fetch import Server, server  # noqa: F401  (a fixture)


def medmnist_file(path: Path, shape: tuple[int, ...] = (28, 28), classes: int = 3, **changes: np.ndarray) -> None:
    """Write a file of MedMNIST's form with 6, 2 and 3 images."""
    arrays = {}
    for part, n in (("train", 6), ("val", 2), ("test", 3)):
        arrays[f"{part}_images"] = np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(n) % classes)[:, None]
    np.savez(path, **(arrays | changes))


def test_the_table_is_whole() -> None:
    assert len(KNOWN) == 12
    assert sum(known.task == MULTI_LABEL for known in KNOWN.values()) == 1
    sums = [md5 for known in KNOWN.values() for md5 in known.md5]
    assert len(set(sums)) == 48
    assert all(len(md5) == 32 and int(md5, 16) for md5 in sums)
    for name, known in KNOWN.items():
        assert len(set(known.classes)) == len(known.classes) >= 2
        for end, md5 in zip(medmnist.SIDES, known.md5, strict=True):
            assert (name + end in ARCHIVES) == (known.task != MULTI_LABEL)
            if name + end in ARCHIVES:
                archive = ARCHIVES[name + end]()[0]
                assert (archive.filename, archive.md5, archive.first_use) == (f"{name}{end}.npz", md5, True)


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if known.task != MULTI_LABEL])
def test_each_set_is_read_by_its_name(name: str, tmp_path: Path) -> None:
    known = KNOWN[name]
    colour = (3,) if known.channels == 3 else ()
    medmnist_file(tmp_path / f"{name}.npz", (28, 28, *colour), len(known.classes))
    medmnist_file(tmp_path / f"{name}_64.npz", (64, 64, *colour), len(known.classes))
    small, large = load_dataset(f"medmnist/{name}", root=tmp_path), load_dataset(f"medmnist/{name}_64", root=tmp_path)
    assert small.classes == large.classes == known.classes
    assert small.train.x.shape == (8, known.channels, 32, 32)
    assert large.test.x.shape == (3, known.channels, 64, 64)
    assert not small.flip
    official = f"not the official file, which has {known.images[0]:,}, "
    assert small.note.startswith(f"{name}: {known.task}")
    assert known.licence in small.note
    assert official in small.note
    assert ("grades in an order" in small.note) == (name == "retinamnist")
    medmnist_file(tmp_path / f"{name}.npz", (28, 28) if colour else (28, 28, 3))
    with pytest.raises(UserError, match=f"but {name} has {known.channels}; it is another set"):
        load_dataset(f"medmnist/{name}", root=tmp_path)


def test_what_cannot_be_learnt_here_is_refused_with_the_reason(tmp_path: Path) -> None:
    for name, text in (
        ("chestmnist", r"14 findings .* \(multi-label\)"),
        ("chestmnist_64", "14 findings"),
        ("organmnist3d", "3-D"),
    ):
        with pytest.raises(UserError, match=text):
            load_dataset(f"medmnist/{name}", root=tmp_path)
        done = CliRunner().invoke(app, ["fetch", name])
        assert isinstance(done.exception, UserError)
        assert "nothing to fetch" in str(done.exception)
        assert ("multi-label" in str(done.exception)) == name.startswith("chest")


def test_bad_files(tmp_path: Path) -> None:
    for name in ("medmnist", "medmnist/", "medmnist/a/b"):
        with pytest.raises(UserError, match=r"medmnist/NAME .*Known: pathmnist"):
            load_dataset(name, root=tmp_path)
    with pytest.raises(UserError, match=r"bloodmnist.npz does not exist; mpssl-fed fetch bloodmnist --root"):
        load_dataset("medmnist/bloodmnist", root=tmp_path)
    with pytest.raises(UserError, match="Did you mean 'bloodmnist'"):
        load_dataset("medmnist/bloodmnits", root=tmp_path)
    bad = tmp_path / "bad.npz"
    medmnist_file(bad, train_labels=np.zeros((6, 14), int))
    with pytest.raises(UserError, match=r"train_labels \[6, 14\] are not one class an image"):
        load_dataset("medmnist/bad", root=tmp_path)
    medmnist_file(bad, (28, 28, 28))
    with pytest.raises(UserError, match="are not 2-D images"):
        load_dataset("medmnist/bad", root=tmp_path)
    medmnist_file(bad, test_labels=np.array([[0], [-1], [1]]))
    with pytest.raises(UserError, match=r"test part: image 1 has the label -1, out of range 0..2"):
        load_dataset("medmnist/bad", root=tmp_path)
    np.savez(bad, train_images=np.zeros(3))
    with pytest.raises(UserError, match="is not a MedMNIST file"):
        load_dataset("medmnist/bad", root=tmp_path)
    bad.write_bytes(b"PK\3\4 not a zip")
    with pytest.raises(UserError, match="is not a MedMNIST file"):
        load_dataset("medmnist/bad", root=tmp_path)
    medmnist_file(bad)
    assert load_dataset("medmnist/bad", root=tmp_path).classes == ("0", "1", "2")


@pytest.fixture
def served(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:  # noqa: F811
    """A server that has a bloodmnist of its own, whose MD5 is taken for the published one."""
    medmnist_file(tmp_path / "made.npz", (28, 28, 3), 8)
    server.files["bloodmnist.npz"] = (tmp_path / "made.npz").read_bytes()
    md5 = hashlib.md5(server.files["bloodmnist.npz"]).hexdigest()
    monkeypatch.setitem(ARCHIVES._parts, "bloodmnist", lambda: [Archive(server.url("bloodmnist.npz"), md5, first_use=True)])
    return server


def test_what_passed_the_md5_is_trusted_on_first_use(served: Server, tmp_path: Path) -> None:
    root = tmp_path / "data"
    blood = load_dataset("medmnist/bloodmnist", root=root, download=True)
    assert blood.classes[0] == "basophil"
    sums = json.loads((root / "sha256.json").read_text())
    assert sums == {"bloodmnist.npz": hashlib.sha256(served.files["bloodmnist.npz"]).hexdigest()}
    medmnist_file(root / "bloodmnist.npz", (28, 28, 3), 2)
    with pytest.raises(UserError, match=r"its SHA-256 is .*, and was .* when it was fetched; fetch it again"):
        load_dataset("medmnist/bloodmnist", root=root)
    fetch_dataset("bloodmnist", root)
    assert len(load_dataset("medmnist/bloodmnist", root=root).train) == 8
    served.files["bloodmnist.npz"] += b"!"
    with pytest.raises(UserError, match="its md5 is"):
        fetch_dataset("bloodmnist", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "bloodmnist.npz").exists()
