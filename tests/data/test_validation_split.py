"""A slice of the training pool to tune on: stratified, fixed, disjoint from all that is trained or tested on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpssl_fed.data.base import Dataset, Images, validation_split
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.errors import UserError


def _pool(n: int, side: int, subjects: tuple[str, ...] | None = None) -> Images:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (n, 1, side, side), dtype=np.uint8))
    return Images(x, torch.arange(n) % 2, subjects)


def _rows(images: Images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.x}


def test_a_fifth_of_each_digit_and_none_of_it_elsewhere() -> None:
    data = load_dataset("mnist-5k")
    tuned = validation_split(data, 0.2)
    assert tuned.test.y.bincount().tolist() == [60] * 10
    assert tuned.train.y.bincount().tolist() == [240] * 10
    assert _rows(tuned.test) | _rows(tuned.train) == _rows(data.train)
    assert not _rows(tuned.test) & _rows(tuned.train)
    assert not _rows(tuned.test) & _rows(data.test)
    assert torch.equal(validation_split(data, 0.2).test.x, tuned.test.x)


def test_a_subject_stays_on_one_side() -> None:
    subjects = tuple(f"s{i // 4}" for i in range(40))
    tuned = validation_split(Dataset("d", ("a", "b"), _pool(40, 8, subjects), _pool(4, 8), flip=False), 0.25)
    assert tuned.train.subjects is not None
    assert tuned.test.subjects is not None
    assert len(tuned.train) + len(tuned.test) == 40
    assert not set(tuned.train.subjects) & set(tuned.test.subjects)


def test_of_images_stored_larger_the_centre_is_held_out() -> None:
    train = _pool(40, 16)
    tuned = validation_split(Dataset("d", ("a", "b"), train, _pool(4, 14), flip=False), 0.25)
    assert (tuned.size, tuned.train.x.shape[-1]) == (14, 16)
    centres = {image[:, 1:15, 1:15].contiguous().numpy().tobytes() for image in train.x}
    assert _rows(tuned.test) <= centres
    assert len(tuned.test) == 10


def test_too_few_images_to_spare_one() -> None:
    data = Dataset("d", ("a", "b"), _pool(4, 8), _pool(4, 8), flip=False)
    with pytest.raises(UserError, match=r"data set 'd': data.held_out_fraction=0.1 of 4 training images in 2 classes is no image"):
        validation_split(data, 0.1)
