"""Subjects are whole in a simulated federation, labelled or not, and in its audit; the manifest says that it was checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import mpssl_fed
from mpssl_fed import config as configs
from mpssl_fed.audit.audited import Audited, some_of
from mpssl_fed.audit.membership import infer
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import DATASETS, Dataset, Images
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.whole import count_apart, subjects_of
from mpssl_fed.models import Classifier
from mpssl_fed.runs.reader import read_manifest
from tests.privacy.release_cases import classifier
from tests.study.test_studies_of_other_data import cells_folder

PEOPLE, EACH = 24, 8


def crowd(people: range, names: str = "p{:03d}") -> Images:
    """Return eight images of three classes of each person."""
    rng = np.random.default_rng(people.start)
    n = len(people) * EACH
    x = torch.from_numpy(rng.integers(0, 256, (n, 1, 32, 32), dtype=np.uint8))
    return Images(x, torch.from_numpy(rng.integers(0, 3, n)), tuple(names.format(one) for one in people for _ in range(EACH)))


@pytest.fixture
def people() -> Iterator[Callable[[Images], None]]:
    """Register the data set ``crowd``; the call of what is returned changes its test part."""
    tested = [crowd(range(500, 506))]

    def reader() -> Dataset:
        return Dataset("crowd", ("a", "b", "c"), crowd(range(PEOPLE)), tested[0], flip=False)

    def use(images: Images) -> None:
        parts._dataset.cache_clear()
        tested[0] = images

    DATASETS.add("crowd")(reader)
    parts._dataset.cache_clear()
    parts._cached_split.cache_clear()
    try:
        yield use
    finally:
        del DATASETS._parts["crowd"]
        parts._dataset.cache_clear()
        parts._cached_split.cache_clear()


def config(*words: str) -> Config:
    fields = {
        "data": {"name": "crowd", "labels_per_class": 3},
        "model": {"name": "hog"},
        "method": {"name": "base"},
        "federation": {"sites": 4, "rounds": 1, "local_steps": 2},
    }
    return configs.from_mapping(configs.override(fields, words))


@pytest.mark.parametrize("over", ["site", "all-sites"])
@pytest.mark.parametrize("partition", ["{name: iid}", "{name: dirichlet, alpha: 0.2}", "{name: quantity}"])
@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_nobody_stands_at_two_sites_labelled_or_not(people: object, over: str, partition: str, held_out: str) -> None:
    words = (f"data.partition={partition}", f"data.labels_over={over}", f"data.held_out={held_out}", "method.name=ssl-real")
    asked = config(*words, "data.labels_per_class=6")
    held = []
    for site in range(4):
        labelled, unlabeled = parts.labelled(asked, site), parts.unlabeled(asked, site)
        assert unlabeled is not None
        held.append({*(labelled.subjects or ()), *(unlabeled.subjects or ())})
    assert len(set.union(*held)) == sum(map(len, held))
    tested = parts.dataset(asked).test.subjects
    assert tested is not None
    assert not set.union(*held) & set(tested)
    counts = parts.label_counts(asked)["sites"].values()
    assert np.sum(list(counts), axis=0).tolist() == [24 if over == "site" else 6] * 3
    found = {"count": len(set.union(*held)), "sites_disjoint": True, "test": len(set(tested)), "test_disjoint": True}
    assert subjects_of(asked) == found


def test_the_manifest_of_a_run_says_so(tmp_path: Path) -> None:
    root = cells_folder(tmp_path / "cells")
    words = ["data.name=image-folder", f"data.root={root}", "data.subjects=parent", "federation.sites=3"]
    run = mpssl_fed.simulate(config(*words), output=tmp_path / "whole")
    found = read_manifest(run.folder)["subjects"]
    assert found == {"count": found["count"], "sites_disjoint": True, "test": found["test"], "test_disjoint": True}
    assert 3 <= found["count"] <= 12 - found["test"]
    run = mpssl_fed.simulate(config("data.name=mnist-5k"), output=tmp_path / "none")
    assert read_manifest(run.folder)["subjects"] is None


def test_a_reader_that_tests_on_people_it_trains_on_is_refused(people: Callable[[Images], None], tmp_path: Path) -> None:
    people(crowd(range(20, 30), "P{:d}.0"))  # P20.0 is p020
    with pytest.raises(UserError, match=r"4 subject\(s\) are both in train and in test: P20.0, P21.0"):
        mpssl_fed.simulate(config(), output=tmp_path / "run")
    with pytest.raises(UserError, match="'01' has images at the sites 0 and 2; subjects stay whole"):
        count_apart([["1", "2"], ["3"], ["01"]])


def test_an_audit_compares_with_strangers(people: object) -> None:
    audited = Audited(config("data.labels_per_class=2"), 0)
    given = {subject for site in range(4) for subject in parts.labelled(audited.config, site).subjects or ()}
    others = audited.held_out()
    assert others.subjects is not None
    assert not given & set(others.subjects)
    some = some_of(others, 30, np.random.default_rng(0))
    assert some.subjects is not None
    assert len(some) == 24
    assert all(others.subjects.count(one) == EACH for one in some.subjects)
    plain = Images(others.x, others.y)
    same = np.sort(np.random.default_rng(0).permutation(len(plain))[:30])
    assert torch.equal(some_of(plain, 30, np.random.default_rng(0)).x, plain.x[same])


def test_membership_is_of_people_and_no_shadow_knows_half_of_one() -> None:
    members, others = crowd(range(6)), crowd(range(100, 110))
    seen: list[Images] = []

    def train(images: Images, _: int) -> Classifier:
        seen.append(images)
        return classifier()

    found = infer(train(members, 0), members, others, train, shadows=4)
    assert [(attack.unit, attack.members, attack.others) for attack in found] == [("subject", 6, 10)] * 2
    for shadow in seen[1:]:
        assert shadow.subjects is not None
        assert {shadow.subjects.count(one) for one in shadow.subjects} == {EACH}
    alone = [images.take(range(0, len(images), EACH)) for images in (members, others)]
    with_names, without = (
        infer(classifier(), *sides, lambda images, k: classifier(), shadows=2)
        for sides in (alone, [Images(images.x, images.y) for images in alone])
    )
    assert [one.auroc for one in with_names] == [one.auroc for one in without], "a subject with one image changes no bit"
