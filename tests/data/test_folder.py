from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpssl_fed.data.datasets import Images, load_dataset
from mpssl_fed.data.decode import read_image, read_images
from mpssl_fed.data.folder import load_site_csv, load_site_folder
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.errors import UserError

CLASSES = ("cat", "dog", "owl")


def picture(path: Path, seed: int = 0, mode: str = "L", size: tuple[int, int] = (20, 16)) -> Path:
    """A noisy image of width x height ``size``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def tree(root: Path, part: str = "train", n: int = 5, mode: str = "L", suffix: str = "png") -> Path:
    for label, name in enumerate(CLASSES):
        for i in range(n):
            picture(root / part / name / f"{i}.{suffix}", seed=100 * label + i + len(part), mode=mode)
    return root


def test_folders_with_their_own_test_part(tmp_path: Path) -> None:
    tree(tmp_path, "train", 4)
    tree(tmp_path, "test", 2)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    data = load_dataset("image-folder", root=tmp_path)
    assert data.classes == CLASSES
    assert data.train.x.shape == (12, 1, 32, 32)
    assert data.train.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert (data.note, data.flip, data.train.subjects) == ("", False, None)


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "bmp", "webp", "tif"])
def test_every_suffix_and_colour(tmp_path: Path, suffix: str) -> None:
    tree(tmp_path, mode="RGB", suffix=suffix)
    data = load_dataset("image-folder", root=tmp_path, size=24)
    assert data.train.x.shape[1:] == (3, 24, 24)


def test_without_a_test_part_a_fifth_is_held_out_by_content(tmp_path: Path) -> None:
    tree(tmp_path, n=10)
    data = load_dataset("image-folder", root=tmp_path)
    assert data.note.endswith("6 of the 30 images in train are held out")
    assert data.test.y.bincount().tolist() == [2, 2, 2]
    # Other names, same contents: same split.
    for i, path in enumerate(sorted(tmp_path.glob("train/*/*.png"))):
        path.rename(path.with_name(f"x{97 * i % 101:03d}.png"))
    again = load_dataset("image-folder", root=tmp_path)
    assert {x.numpy().tobytes() for x in again.test.x} == {x.numpy().tobytes() for x in data.test.x}


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    tree(tmp_path, n=6)
    for path in list(tmp_path.glob("train/*/*.png")):
        path.with_stem(path.stem + "-copy").write_bytes(path.read_bytes())
    data = load_dataset("image-folder", root=tmp_path)
    assert not {x.numpy().tobytes() for x in data.train.x} & {x.numpy().tobytes() for x in data.test.x}


def test_subjects_stay_on_one_side(tmp_path: Path) -> None:
    for label, name in enumerate(CLASSES):
        for i in range(12):
            picture(tmp_path / "train" / name / f"patient-{i % 5}" / f"{i}.png", seed=100 * label + i)
    data = load_dataset("image-folder", root=tmp_path, subjects="parent")
    assert data.train.subjects is not None
    assert data.test.subjects is not None
    assert not set(data.train.subjects) & set(data.test.subjects)
    assert len(data.train) + len(data.test) == 36
    with pytest.raises(
        UserError,
        match=r"too deep; set data.subjects=parent .*--subjects parent\) if 'patient-0' is",
    ):
        load_dataset("image-folder", root=tmp_path)
    loose = picture(tmp_path / "train" / "cat" / "loose.png")
    with pytest.raises(UserError, match=r"loose.png lies in no subject folder"):
        load_dataset("image-folder", root=tmp_path, subjects="parent")
    loose.unlink()
    with pytest.raises(UserError, match=r"data.subjects is 'child'; known: 'parent'"):
        load_dataset("image-folder", root=tmp_path, subjects="child")


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folder .*train does not exist; expected"):
        load_dataset("image-folder", root=tmp_path)
    picture(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(UserError, match=r"has 1 class folder\(s\); at least two"):
        load_dataset("image-folder", root=tmp_path)
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(UserError, match=r"class folder .*dog has no image \(.png, .*\); add or remove it"):
        load_dataset("image-folder", root=tmp_path)
    picture(tmp_path / "train" / "dog" / "0.png", 1)
    with pytest.raises(UserError, match=r"2 images in 2 classes are too few to hold out a test part"):
        load_dataset("image-folder", root=tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match=r"test has no image; fill it, or remove it"):
        load_dataset("image-folder", root=tmp_path)
    picture(tmp_path / "test" / "dgo" / "0.png")
    with pytest.raises(UserError, match=r"'dgo' is not a class of this task. Did you mean 'dog'\? Classes: cat, dog"):
        load_dataset("image-folder", root=tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an image", "cut", "flipped"])
def test_corrupt_files_are_named(tmp_path: Path, content: bytes | str) -> None:
    tree(tmp_path)
    bad = tmp_path / "train" / "owl" / "3.png"
    whole = bytearray(bad.read_bytes())
    if content == "flipped":
        whole[len(whole) // 2] ^= 0xFF
    bad.write_bytes(content if isinstance(content, bytes) else bytes(whole[: len(whole) // 2] if content == "cut" else whole))
    with pytest.raises(UserError, match=r"image file .*owl/3.png cannot be decoded .*; replace or remove it"):
        load_dataset("image-folder", root=tmp_path)


def test_central_square_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((40, 100), np.uint8)
    pixels[:, 30:70] = 200  # the central 40 x 40
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    inner, outer = read_image(tmp_path / "wide.png", 20)[0, :, 1:-1], read_image(tmp_path / "wide.png", 20)[0]
    assert (inner == 200).all()
    assert outer.min() > 150  # the filter of the outermost pixels reaches one pixel beyond the crop
    pixels[5:35, 35:65] = 100
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (read_image(tmp_path / "wide.png", 10, Preparation(central=0.75))[0, 1:-1, 1:-1] == 100).all()


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees clockwise to see it upright
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    upright = read_image(tmp_path / "phone.jpg", 32)[0].float()
    assert upright[:, 20:].mean() > 240
    assert upright[:, :12].mean() < 15


def test_modes_become_grey_or_colour(tmp_path: Path) -> None:
    grey = np.full((10, 10), 120, np.uint8)
    Image.fromarray(np.stack([grey] * 3, 2)).save(tmp_path / "grey-rgb.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    Image.fromarray(grey > 0).save(tmp_path / "bit.png")
    clear = np.zeros((10, 10, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    Image.fromarray(np.full((10, 10, 3), [255, 0, 0], np.uint8)).save(tmp_path / "red.png")
    Image.open(tmp_path / "red.png").convert("P").save(tmp_path / "palette.png")
    assert read_image(tmp_path / "grey-rgb.png", 8).tolist() == [[[120] * 8] * 8]
    assert read_image(tmp_path / "wide.png", 8).tolist() == [[[120] * 8] * 8]
    assert read_image(tmp_path / "bit.png", 8).min() == 255
    assert read_image(tmp_path / "clear.png", 8).min() == 255
    assert read_image(tmp_path / "palette.png", 8)[:, 0, 0].tolist() == [255, 0, 0]
    paths = [tmp_path / "grey-rgb.png", tmp_path / "red.png"]
    assert read_images(paths, 8).shape == (2, 3, 8, 8)
    assert read_images(paths, 8, channels=1)[:, 0, 0, 0].tolist() == [120, 76]
    assert read_images(paths[:1], 8).shape == (1, 1, 8, 8)
    assert read_images(paths[:1], 8, channels=3).shape == (1, 3, 8, 8)


def test_a_site_folder_may_lack_classes(tmp_path: Path) -> None:
    picture(tmp_path / "owl" / "1.png", mode="RGB")
    picture(tmp_path / "cat" / "1.png")
    images = load_site_folder(tmp_path, CLASSES, 16, 1)
    assert images.y.tolist() == [0, 2]
    assert images.x.shape == (2, 1, 16, 16)
    assert load_site_folder(tmp_path, CLASSES, 16, 3).x.shape == (2, 3, 16, 16)


def test_a_site_folder_with_subjects(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "p1" / "1.png")
    picture(tmp_path / "cat" / "p2" / "1.png")
    assert load_site_folder(tmp_path, CLASSES, 16, 1, subjects="parent").subjects == ("p1", "p2")


def test_bad_site_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folder .*gone does not exist"):
        load_site_folder(tmp_path / "gone", CLASSES, 16, 1)
    with pytest.raises(UserError, match=r"has no image; expected CLASS/\*.png with CLASS among cat, dog, owl"):
        load_site_folder(tmp_path, CLASSES, 16, 1)
    (tmp_path / "cats").mkdir()
    with pytest.raises(UserError, match=r"'cats' is not a class of this task. Did you mean 'cat'\?"):
        load_site_folder(tmp_path, CLASSES, 16, 1)


def test_a_site_list(tmp_path: Path) -> None:
    picture(tmp_path / "scans" / "a.png")
    other = picture(tmp_path / "elsewhere" / "b.png", 1)
    (tmp_path / "list.csv").write_text(f"\ufeffpath,label\nscans/a.png,owl\n{other},cat\n", encoding="utf-8")
    images = load_site_csv(tmp_path / "list.csv", CLASSES, 16, 1)
    assert images.y.tolist() == [2, 0]
    assert images.subjects is None
    (tmp_path / "list.csv").write_text(f"subject,path,label\np1,scans/a.png,owl\np1,{other},cat\n")
    assert load_site_csv(tmp_path / "list.csv", CLASSES, 16, 1).subjects == ("p1", "p1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,cat\n", r"list.csv: line 1 must name the columns path,label\[,subject\].*, not file,label"),
        ("", r"line 1 must name the columns"),
        ("path,label\n", r"names no image"),
        ("path,label\na.png,cat\nb.png,cta\n", r"list.csv, line 3: 'cta' is not a class .* Did you mean 'cat'\?"),
        ("path,label\na.png\n", r"line 2: no label in 'a.png'"),
        ("path,label\na.png,cat,extra\n", r"line 2: .*more columns than the header"),
        ("path,label\n\nc.png,cat\n", r"line 3: image file 'c.png' does not exist \(relative paths start at"),
        ("path,label\n,cat\n", r"line 2: image file '' does not exist"),
        ("path,label,subject\na.png,cat,\n", r"line 2: the subject is empty"),
        ("path,label\na.png,cat\n./a.png,dog\n", r"line 3: ./a.png is already named on line 2"),
        (b"path,label\n\xff,cat\n", r"cannot read the list .*expected UTF-8 CSV"),
    ],
)
def test_bad_site_lists_name_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        load_site_csv(path, CLASSES, 16, 1)


def test_a_missing_site_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the list .*gone.csv"):
        load_site_csv(tmp_path / "gone.csv", CLASSES, 16, 1)


def test_every_file_comes_with_the_digest_of_the_bytes_that_were_decoded(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png", seed=1)
    picture(tmp_path / "dog" / "b.png", seed=2)
    images = load_site_folder(tmp_path, CLASSES, 16, 1)
    wanted = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("cat/a.png", "dog/b.png")]
    assert list(images.digests or ()) == wanted
    assert images.take([1]).digests == (wanted[1],)
    with pytest.raises(UserError, match="1 digests of files"):
        Images(images.x, images.y, None, ("ab",))
    assert len({*images.contents(), *Images(images.x, images.y).contents()}) == 4  # a file and its pixels are two things
