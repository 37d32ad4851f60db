"""D = D_train + D_val: how many images of a class validate, whose, and which methods hold them out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.data.datasets import Images
from mpssl_fed.method.private_data import ExactPrivateData, LabelledViews
from mpssl_fed.method.validation import Split, split_validation
from mpssl_fed.method.views import Views
from mpssl_fed.models import Architecture, build_classifier
from tests.method.test_step import config, learner

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def reads(name: str, per_class: int, **more: Any) -> ExactPrivateData:
    private = learner(config(name, **more), per_class).private
    assert isinstance(private, ExactPrivateData)
    return private


def shared(private: ExactPrivateData) -> int:
    """Return how many images of D_val are in D_train too."""
    kept = {image.numpy().tobytes() for image in private.train[0]}
    return sum(image.numpy().tobytes() in kept for image in private.val[0])


@pytest.mark.parametrize(("per_class", "held"), [(2, 1), (4, 1), (5, 1), (10, 1), (20, 2)])
def test_few_labels_a_class_are_parted_too(per_class: int, held: int) -> None:
    """A tenth of two to five labels is no image, and D_val was D_train."""
    private = reads("mp-ssl", per_class)
    assert private.val[1].bincount().tolist() == [held] * 10
    assert private.train[1].bincount().tolist() == [per_class - held] * 10
    assert shared(private) == 0


def test_a_single_label_validates_on_another_view_of_it() -> None:
    private = reads("mp-ssl", 1)
    assert shared(private) == len(private.val[1]) == 10
    index = torch.arange(10)
    first, second = private._validated(index), private._validated(index)
    assert not any(torch.equal(view, image) for view, image in zip(first, private.val[0], strict=True))
    assert not torch.equal(first, second)


def test_an_image_that_training_never_saw_is_validated_on_as_it_is() -> None:
    private = reads("mp-ssl", 4)
    assert torch.equal(private._validated(torch.arange(10)), private.val[0])


@pytest.mark.parametrize("name", ["mp-ssl", "mp-ssl-wo-scr", "mp-ssl-wo-lmo", "mp-ssl+", "naive-gssl", "vic-gssl", "ssl-real"])
def test_methods_with_an_unsupervised_loss_train_on_the_same_part(name: str) -> None:
    assert torch.equal(reads(name, 4).train[0], reads("base-train-only", 4).train[0])
    assert len(reads(name, 4).train[1]) == 30


def test_base_trains_on_every_label() -> None:
    assert len(reads("base", 4).train[1]) == len(reads("fedprox", 4).train[1]) == 40
    assert len(reads("mp-ssl", 4, model={"trainable": "head"}).train[1]) == 40  # a feature loss reaches nothing: the cell is base


@given(LABELS, st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_each_class_gives_its_share_and_keeps_half(labels: list[int], fraction: float) -> None:
    y = np.array(labels)
    train, val = split_validation(y, fraction, np.random.default_rng(0))
    assert set(y[train]) == set(y[val]) == set(labels)
    assert set(train) | set(val) == set(range(len(y)))
    for label in set(labels):
        n = int((y == label).sum())
        both = set(train[y[train] == label]) & set(val[y[val] == label])
        held = min(max(1, round(fraction * n)), n // 2) if fraction else 0
        assert int((y[val] == label).sum()) == (held or (max(1, round(fraction * n)) if fraction else n))
        assert bool(both) == (held == 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=40), st.floats(0.01, 0.6), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_subjects_stay_whole(members: list[tuple[int, int]], fraction: float, seed: int) -> None:
    y, subjects = np.array([label for label, _ in members]), [f"patient {who}" for _, who in members]
    train, val = split_validation(y, fraction, np.random.default_rng(seed), subjects)
    assert set(y[train]) == set(y[val]) == set(y)
    again = set(train) & set(val)
    apart = {subjects[i] for i in val if i not in again}
    assert not apart & {subjects[i] for i in train}
    for label in set(y):
        held = [i for i in val if y[i] == label and i not in again]
        assert len(held) <= (y == label).sum() // 2
        assert not held or not any(y[i] == label for i in again)  # other views only where no image could be spared


def test_a_site_that_names_subjects_parts_by_them() -> None:
    y = torch.tensor([0] * 6 + [1] * 6)
    images = Images(torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1).expand(12, 1, 4, 4), y, tuple("aaabbb" + "cccddd"))
    split = Split.of(images, 0.1, np.random.default_rng(1))
    assert split.train.subjects is not None
    assert split.val.subjects is not None
    assert not set(split.train.subjects) & set(split.val.subjects)
    assert len(split.val) == 6
    assert not split.again.any()


def test_images_of_both_kinds_stand_in_one_batch() -> None:
    """A class of one image and a class of two: the first validates on another view, the second on an image left out."""
    y = torch.tensor([0, 1, 1])
    x = torch.randint(0, 255, (3, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split.of(Images(x, y), 0.1, np.random.default_rng(0))
    assert split.again.tolist() == [True, False]
    views, model = Views(False, 32), build_classifier(Architecture("small-cnn", ("a", "b"), 1, 32))
    private = ExactPrivateData(model, split, LabelledViews(views.labelled("weak"), views.plain), 8)
    seen = private._validated(torch.arange(2))
    assert not torch.equal(seen[0], private.val[0][0])
    assert torch.equal(seen[1], private.val[0][1])


def test_what_lmo_reads_shifts_no_batch_of_the_others() -> None:
    one, other = reads("base-train-only", 10), reads("base-train-only", 10)
    theta = one.classifier.theta()
    for _ in range(2):
        mine, yours = one.supervised_gradient(theta), other.supervised_gradient(theta)
        assert all(torch.equal(mine[name], yours[name]) for name in theta)
        one.validation_gradient(theta)
        one.mean_feature(theta)
