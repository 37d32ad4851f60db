"""A class is found whatever archive its folder went through; two that look the same are refused."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from mpssl_fed.data.classes import class_of
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.folder import load_site_folder, site_csv
from mpssl_fed.errors import UserError
from tests.data.test_folder import picture

COMPOSED, APART = "caf\u00e9", "cafe\u0301"


def fill(folder: Path, seed: int) -> None:
    for i in range(5):
        picture(folder / f"{i}.png", seed=10 * seed + i)


@pytest.mark.parametrize(
    ("one", "other"), [(COMPOSED, APART), ("cat", "cat "), ("cat", "cat\u200b"), ("a cat", "a  cat"), (rb"\xff", b"\xff")]
)
@pytest.mark.parametrize("part", ["train", "site"])
def test_class_folders_that_look_alike_are_refused(tmp_path: Path, one: str | bytes, other: str | bytes, part: str) -> None:
    names = [os.fsdecode(name) for name in (one, other)]
    for seed, name in enumerate([*names, "dog"]):
        fill(tmp_path / part / name, seed)
    read: partial[object] = partial(load_dataset, "image-folder", tmp_path, 16)
    if part == "site":
        read = partial(load_site_folder, tmp_path / part, (*names, "dog"), 16, 3)
    with pytest.raises(UserError, match=r"class folders .* look alike"):
        read()


def test_letters_in_two_cases_are_two_classes(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "A", "b-c", "b_c")):
        fill(tmp_path / "train" / name, seed)
    assert load_dataset("image-folder", tmp_path, 16).classes == ("A", "a", "b-c", "b_c")


def test_accents_may_be_composed_or_not(tmp_path: Path) -> None:
    """Archives made on one system have them otherwise than folders of another."""
    for seed, name in enumerate((COMPOSED, "dog")):
        fill(tmp_path / "train" / name, seed)
    for seed, name in enumerate((APART, "dog"), start=2):
        fill(tmp_path / "test" / name, seed)
    data = load_dataset("image-folder", tmp_path, 16)
    assert data.classes == (COMPOSED, "dog")
    assert data.test.y.bincount().tolist() == [5, 5]
    listing = tmp_path / "test" / "list.csv"
    listing.write_text(f"path,label\ndog/0.png,dog\ndog/1.png, {COMPOSED} \n", encoding="utf-8")
    assert [row[1] for row in site_csv(listing, (APART, "dog")).rows] == [1, 0]


def test_a_name_that_fits_two_classes_fits_none() -> None:
    assert class_of(COMPOSED, (COMPOSED, APART)) == COMPOSED
    assert class_of("e\u0323\u0302", ("\u1ec7", "\u1eb9\u0302")) is None
    assert class_of("Cat", ("cat", "dog")) is None
