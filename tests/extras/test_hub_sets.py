"""Image-classification sets in the hub's forms, written by the package itself and read from this machine alone."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

datasets = pytest.importorskip("datasets", reason="the extra [hf] is not installed: make test-extras")

import huggingface_hub  # noqa: E402
import pyarrow.parquet  # noqa: E402

from mpssl_fed.data.datasets import Dataset, load_dataset  # noqa: E402
from mpssl_fed.data.decode import read_images  # noqa: E402
from mpssl_fed.errors import UserError  # noqa: E402
from tests.extras.hub_cache import into_cache  # noqa: E402

CLASSES = ("cat", "dog", "owl")
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def pictures(n: int, seed: int, grey: bool = False) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (20, 24) if grey else (20, 24, 3), dtype=np.uint8)) for _ in range(n)]


def made(n: int = 30, seed: int = 0, grey: bool = False, label: str = "label", kind: Any = None, **more: Any) -> Any:
    """Return a set of the package with n images, classes in turn."""
    kind = datasets.ClassLabel(names=list(CLASSES)) if kind is None else kind
    values = [i % 3 for i in range(n)]
    if not isinstance(kind, datasets.ClassLabel):
        values = [CLASSES[i] for i in values] if kind.dtype == "string" else [10 * i for i in values]
    columns = {"image": pictures(n, seed, grey), label: values, **{key: [value] * n for key, value in more.items()}}
    features = {"image": datasets.Image(), label: kind, **{key: datasets.Value("int64") for key in more}}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def with_classes(one: Any, column: str, labels: list[Any], names: tuple[str, ...] = CLASSES) -> Any:
    """Return the set with a column of classes more, in the way that every version of the package since 3.0 has."""
    return one.add_column(column, labels).cast_column(column, datasets.ClassLabel(names=list(names)))


def parquet(folder: Path, **splits: Any) -> Path:
    """Write a folder as the hub keeps it: data/SPLIT-00000-of-00001.parquet."""
    (folder / "data").mkdir(parents=True)
    for split, one in splits.items():
        one.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def load(root: Path | None, name: str = "hf/pets", **more: Any) -> Dataset:
    return load_dataset(name, root, **more)


def test_both_forms_give_the_images_that_files_of_them_give(tmp_path: Path) -> None:
    train, test = made(12), made(6, seed=1)
    first = load(parquet(tmp_path / "hub", train=train, test=test), size=16)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "saved")
    second = load(tmp_path / "saved", size=16)
    for part, one in (("train", train), ("test", test)):
        for number, picture in enumerate(pictures(len(one), 0 if part == "train" else 1)):
            picture.save(tmp_path / f"{part}-{number:02d}.png")
        wanted = read_images(sorted(tmp_path.glob(f"{part}-*.png")), 16)
        for found in (getattr(first, part), getattr(second, part)):
            assert torch.equal(found.x, wanted)
            assert found.y.tolist() == [i % 3 for i in range(len(one))]
            assert len(set(found.digests)) == len(one)
    assert first.classes == second.classes == CLASSES
    assert first.note == ""
    assert first.train.digests == second.train.digests
    assert not list(tmp_path.rglob("cache-*"))  # nothing was copied


def test_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UserError, match=r"hf/owner/pets: not in the hub's cache.*hf download owner/pets --repo-type dataset"):
        load(None, "hf/owner/pets")
    snapshot = into_cache(
        parquet(tmp_path / "set", train=made(12), test=made(6, seed=1)), tmp_path / "hub" / "datasets--owner--pets"
    )
    found, given = load(None, "hf/owner/pets"), load(snapshot)
    assert (len(found.train), len(found.test), found.size, found.channels) == (12, 6, 32, 3)
    assert torch.equal(found.train.x, given.train.x)
    (snapshot / "data" / "train-00000-of-00001.parquet").resolve().unlink()  # as a disk that was tidied leaves it
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet.*No such file"):
        load(snapshot)


def test_validation_joins_train_or_is_tested_on_and_a_fifth_is_held_out(tmp_path: Path) -> None:
    three = load(parquet(tmp_path / "a", train=made(12), validation=made(6, seed=1), test=made(9, seed=2)))
    assert (len(three.train), len(three.test)) == (18, 9)
    two = load(parquet(tmp_path / "b", train=made(12), valid=made(6, seed=1)))
    assert (len(two.train), len(two.test)) == (12, 6)
    assert "validation split is tested on" in two.note
    for folder in (parquet(tmp_path / "c", train=made(30)), tmp_path / "d"):
        if not folder.exists():
            made(30).save_to_disk(folder)
        one = load(folder)
        assert (len(one.train), len(one.test)) == (24, 6)
        assert one.test.y.bincount().tolist() == [2, 2, 2]
        assert "6 of 30 images are held out" in one.note
    secret = with_classes(made(6, seed=3).remove_columns("label"), "label", [-1] * 6)
    hidden = load(parquet(tmp_path / "e", train=made(12), validation=made(6, seed=1), test=secret))
    assert (len(hidden.train), len(hidden.test)) == (12, 6)


def test_labels_of_other_kinds(tmp_path: Path) -> None:
    words = load(parquet(tmp_path / "a", train=made(30, kind=datasets.Value("string"))))
    assert words.classes == CLASSES
    numbers = load(parquet(tmp_path / "b", train=made(30, kind=datasets.Value("int64"), label="labels")))
    assert numbers.classes == ("0", "10", "20")
    grey = load(parquet(tmp_path / "c", train=made(30, grey=True)))
    assert grey.channels == 1
    two = with_classes(made(30), "coarse", [i % 2 for i in range(30)], ("x", "y"))
    folder = parquet(tmp_path / "d", train=two.rename_column("label", "fine"))
    with pytest.raises(UserError, match=r"the label may be fine or coarse; name one after a colon, as in data\.name=hf/NAME:fine"):
        load(folder)
    assert load(folder, "hf/pets:coarse").classes == ("x", "y")
    with pytest.raises(UserError, match=r"no column 'coarze'\. Did you mean 'coarse'"):
        load(folder, "hf/pets:coarze")


def test_parquet_without_the_hub_s_own_words(tmp_path: Path) -> None:
    """As other programs write it: a struct of bytes and path, and numbers."""
    cells = []
    for picture in pictures(30, 0):
        stream = io.BytesIO()
        picture.save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": None})
    (tmp_path / "train").mkdir()
    table = pyarrow.table({"img": cells, "label": [i % 3 for i in range(30)]})
    pyarrow.parquet.write_table(table.slice(0, 15), tmp_path / "train" / "0000.parquet")
    pyarrow.parquet.write_table(table.slice(15), tmp_path / "train" / "0001.parquet")
    found = load(tmp_path)
    assert (len(found.train), len(found.test), found.classes) == (24, 6, ("0", "1", "2"))


def cut(folder: Path) -> None:
    file = parquet(folder, train=made(12)) / "data" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-50])


def bad_state(folder: Path) -> None:
    made(12).save_to_disk(folder)
    (folder / "state.json").write_text("{")


def shard(folder: Path, name: str = "train-00000-of-00002.parquet") -> None:
    folder.mkdir(parents=True)
    made(12).to_parquet(folder / name)


def two_sets(folder: Path) -> None:
    for name in ("small", "large"):
        shard(folder / name, "train-00000-of-00001.parquet")


def cells(folder: Path, **cell: Any) -> None:
    folder.mkdir()
    table = pyarrow.table({"image": [{"bytes": None, "path": None, **cell}] * 12, "label": [0, 1] * 6})
    pyarrow.parquet.write_table(table, folder / "train.parquet")


def labelled(folder: Path, labels: list[int | None], names: tuple[str, ...] = CLASSES) -> None:
    parquet(folder, train=with_classes(made(12).remove_columns("label"), "label", labels, names))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda at: at.mkdir(), "holds neither Parquet files nor what save_to_disk writes"),
    "image folder": (lambda at: (at / "train" / "cat").mkdir(parents=True), r"set data\.name=image-folder"),
    "damaged": (cut, "no readable data set"),
    "damaged state": (bad_state, "no readable data set"),
    "missing shard": (shard, r"train-00000-of-00002\.parquet: one of 2 files by its name, but 1 are here"),
    "two sets": (two_sets, r"holds several sets, in large, small; name one by data\.root"),
    "no split": (lambda at: shard(at, "all.parquet"), "no file says its split"),
    "test alone": (lambda at: parquet(at, test=made(12)), "no split to train on, only test"),
    "no image": (
        lambda at: parquet(at, train=made(12).remove_columns("image")),
        "one column of images, among label there are 0",
    ),
    "no label": (
        lambda at: parquet(at, train=made(12, label="weight", kind=datasets.Value("int64"))),
        "the label may be in no column; it is no set of classes",
    ),
    "a label outside": (lambda at: labelled(at, [0, 1, None] * 4), "image 2 has the label None; want one of the set's classes"),
    "several labels": (
        lambda at: parquet(at, train=made(12).remove_columns("label").add_column("labels", [[0, 1]] * 12)),
        r"image 0 has the label \[0, 1\]; want one of the set's classes",
    ),
    "no row": (lambda at: parquet(at, train=made(0), test=made(6)), "train: no image to train on"),
    "one split twice": (
        lambda at: datasets.DatasetDict(train=made(12), val=made(3), validation=made(3)).save_to_disk(at),
        "'validation' and another split are both the validation split",
    ),
    "one class": (lambda at: labelled(at, [0] * 12, ("a",)), "its labels have 1 values; want 2 to"),
    "other columns": (
        lambda at: parquet(at, train=made(12), test=made(6, kind=datasets.Value("string"))),
        "the columns image and label of test are of another kind",
    ),
    "broken image": (lambda at: cells(at, bytes=b"no image"), r"image file train\[0\] cannot be decoded"),
    "a path": (lambda at: cells(at, path="/etc/passwd"), r"train\[0\] holds no image, but the path /etc/passwd"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_image_classification(tmp_path: Path, what: str) -> None:
    make, words = BROKEN[what]
    make(tmp_path / "set")
    with pytest.raises(UserError, match=words):
        load(tmp_path / "set")


@pytest.mark.parametrize("name", ["hf/", "hf/a/b/c", "hf/../x", "hf/a:b:c", "hf/-x"])
def test_a_name_of_another_form(name: str) -> None:
    with pytest.raises(UserError, match=r"write hf/OWNER/NAME, or hf/NAME with its folder as data\.root"):
        load(None, name)


def test_a_federation_trains_on_it_and_its_model_reads_files(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # a simulation may use sockets of its own
    folder = parquet(tmp_path / "set", train=made(60), test=made(30, seed=1))
    given = ("data.name=hf/pets", f"data.root={folder}", "data.labels_per_class=4", "data.fit=squash", "method.name=base")
    code, said, error = cli("data", "demo", *given, "--sites", "2", "--plot", tmp_path / "plot")
    assert code == 0, error
    assert "owl" in said
    more = ("federation.local_steps=2", "--sites", "2", "--rounds", "1", "--output", tmp_path / "run")
    code, said, error = cli("simulate", "demo", *given, *more)
    assert code == 0, error
    pictures(1, 5)[0].save(tmp_path / "new.png")
    code, said, error = cli("predict", tmp_path / "run", tmp_path / "new.png")
    assert code == 0, error
    assert any(name in said for name in CLASSES)
