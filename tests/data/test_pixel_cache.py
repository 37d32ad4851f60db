"""Decoded images on disk: the same bits as without, never stale, never shared, and gone where they are damaged."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mpssl_fed.data import decode
from mpssl_fed.data.decode import read_images, read_with_digests
from mpssl_fed.data.formats import pixel_cache
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.environment import image_cache_folder
from mpssl_fed.errors import UserError
from tests.data.zoo import ZOO


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps any number of images."""
    monkeypatch.setenv("MPSSL_FED_IMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pixel_cache, "FEWEST", 1)
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, as it happens."""
    seen: list[Path] = []
    real = decode.read_image

    def read(path: Path, *args: object) -> torch.Tensor:
        seen.append(path)
        return real(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "read_image", read)
    return seen


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Every animal of the zoo that is read."""
    (tmp_path / "zoo").mkdir()
    for animal in ZOO:
        if not animal.refused:
            animal.write(tmp_path / "zoo" / animal.name)
    return sorted((tmp_path / "zoo").iterdir())


def parts(place: Path) -> list[Path]:
    return sorted(place.glob("*/*.npy"))


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_a_second_reading_decodes_nothing_and_gives_the_same_bits(
    channels: int | None, place: Path, files: list[Path], decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "PART_BYTES", 20_000)
    first, digests = read_with_digests(files, 24, channels)
    assert len(decoded) == len(files)
    assert len(parts(place)) > 2
    second, same = read_with_digests(files[::-1], 24, channels)
    assert len(decoded) == len(files)
    assert torch.equal(first, second.flip(0))
    assert digests == same[::-1]
    monkeypatch.setenv("MPSSL_FED_IMAGE_CACHE", "off")
    assert torch.equal(read_images(files, 24, channels), first)


def test_it_is_the_owners_alone(place: Path, files: list[Path]) -> None:
    old = os.umask(0)
    try:
        read_images(files, 8)
    finally:
        os.umask(old)
    assert {file.stat().st_mode & 0o777 for file in (place, *place.iterdir())} == {0o700}
    assert {file.stat().st_mode & 0o777 for file in parts(place)} == {0o600}
    assert not [item for item in place.rglob("*") if item.is_file() and item not in parts(place)]


def test_a_folder_that_others_may_enter_is_not_used(place: Path, files: list[Path], decoded: list[Path], tmp_path: Path) -> None:
    place.mkdir(mode=0o700)
    place.chmod(0o755)
    read_images(files[:2], 8)
    place.rmdir()  # nothing was written
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    place.symlink_to(tmp_path / "elsewhere")
    read_images(files[:2], 8)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert len(decoded) == 4


def test_what_was_changed_is_read_anew(place: Path, files: list[Path], decoded: list[Path]) -> None:
    file = files[0]
    first, before = read_images([file], 8), file.stat()
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not torch.equal(read_images([file], 8), first)
    for prepared, size in ((Preparation(fit="pad"), 8), (Preparation(white_level=9), 8), (Preparation(), 9)):
        decoded.clear()
        read_images([file], size, None, prepared)
        assert decoded == [file]


def test_other_code_or_another_decoder_reads_anew(
    place: Path, files: list[Path], decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_images(files[:1], 8)
    monkeypatch.setattr(pixel_cache, "version", lambda name: "0.0.1")
    pixel_cache._reader.cache_clear()
    read_images(files[:1], 8)
    pixel_cache._reader.cache_clear()
    assert len(decoded) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap", "folder"])
def test_a_damaged_part_is_made_again(damage: str, place: Path, files: list[Path], decoded: list[Path]) -> None:
    first = read_images(files, 8)
    for part in parts(place):
        body = bytearray(part.read_bytes())
        body[-5] ^= 1
        if damage == "folder":
            part.unlink()
            part.mkdir()
        else:
            part.write_bytes({"flip": body, "cut": body[:-9], "empty": b"", "swap": parts(place)[-1].read_bytes()[:-1]}[damage])
    assert torch.equal(read_images(files, 8), first)
    assert len(decoded) == 2 * len(files)


def test_what_is_refused_is_refused_again(place: Path, files: list[Path]) -> None:
    (files[0].parent / "bad.png").write_text("no picture")
    for _ in range(2):
        with pytest.raises(UserError, match=r"bad\.png cannot be decoded"):
            read_images([*files, files[0].parent / "bad.png"], 8)


def test_several_readers_at_once(place: Path, files: list[Path], decoded: list[Path]) -> None:
    """Each reading has a cache object of its own and meets others on the disk alone, so threads stand for processes."""
    files = [
        file for file in files if file.name.startswith("turned-")
    ]  # of which no decoder warns: threads share warnings' filters
    with ThreadPoolExecutor(8) as readers:
        found = list(readers.map(lambda _: read_images(files, 16), range(16)))
    assert all(torch.equal(one, found[0]) for one in found)
    decoded.clear()
    assert torch.equal(read_images(files, 16), found[0])
    assert not decoded
    assert not list(place.rglob(".*"))


def test_it_stays_within_its_size_and_can_be_cleared(place: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read_images(files, 16)
    oldest = parts(place)
    for part in oldest:
        os.utime(part, (1, 1))
    left_over = oldest[0].with_name(f".{oldest[0].name}.0a1b2c3d")
    left_over.touch()
    os.utime(left_over, (1, 1))
    monkeypatch.setattr(pixel_cache, "MOST_BYTES", 40_000)
    read_images(files, 12)
    kept = parts(place)
    assert sum(part.stat().st_size for part in kept) <= 40_000
    assert kept
    assert not set(oldest) & set(kept)
    assert not left_over.exists()
    assert pixel_cache.place_of(len(files)) == [place]
    (place / "mine.txt").touch()
    assert pixel_cache.clear() == len(kept)
    assert [item.name for item in place.rglob("*") if item.is_file()] == ["mine.txt"]


def test_few_images_and_an_unwritable_place_do_without(
    place: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "FEWEST", 1000)
    read_images(files, 8)
    assert not place.exists()
    monkeypatch.setattr(pixel_cache, "FEWEST", 1)
    place.write_text("a file")
    read_images(files, 8)
    monkeypatch.setenv("MPSSL_FED_IMAGE_CACHE", "here")
    with pytest.raises(UserError, match="MPSSL_FED_IMAGE_CACHE=here: want 'off', or the folder's whole path"):
        image_cache_folder()
