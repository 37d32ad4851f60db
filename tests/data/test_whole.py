"""Subjects are whole: at one site and on one side, for every partitioner and setting; a subject with one image changes no bit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.data.label_table import label_table
from mpssl_fed.data.partition import PARTITIONERS, Standing, choose_labelled, partition
from mpssl_fed.errors import UserError
from tests.data.test_partition import cases, labels

MANY_CLASSES = range(10)

owners = st.integers(1, 40).flatmap(lambda people: st.tuples(st.just(people), st.integers(0, 2**32 - 1)))


def people(y: np.ndarray, many: int, seed: int, *, one_class: bool) -> list[str]:
    """Return a subject for each image; one_class: no subject has images of two classes."""
    who = np.random.default_rng(seed).integers(0, many, len(y))
    return [f"p{one}/{label}" if one_class else f"p{one}" for one, label in zip(who.tolist(), y.tolist(), strict=True)]


def sites_of(subjects: list[str], parts: list[np.ndarray]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for site, part in enumerate(parts):
        for i in part.tolist():
            found.setdefault(subjects[i], set()).add(site)
    return found


@settings(max_examples=200)
@given(labels, owners, st.booleans(), st.integers(1, 8), cases, st.integers(0, 2**40))
def test_no_subject_stands_at_two_sites(y, owner, one_class, sites, case, seed) -> None:
    name, options = case
    subjects = people(y, *owner, one_class=one_class)
    try:
        parts = partition(y, sites, name, seed, subjects, **options)
    except UserError:
        with pytest.raises(UserError, match="would fit"):
            partition(y, sites, name, seed, subjects, **options)
        return
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(y)))
    assert all(len(found) == 1 for found in sites_of(subjects, parts).values())
    assert min(map(len, parts)) >= options.get("min_per_site", 1)
    again = partition(y, sites, name, seed, subjects, **options)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    if name == "pathological":
        assert ((label_table(y, parts, MANY_CLASSES) > 0).sum(1) == options["classes_per_site"]).all()


@settings(max_examples=60)
@given(labels, st.integers(1, 8), cases, st.integers(0, 2**40))
def test_a_subject_with_one_image_changes_no_bit(y, sites, case, seed) -> None:
    name, options = case
    alone = [f"p{i}" for i in np.random.default_rng(seed).permutation(len(y))]

    def dealt(subjects: list[str] | None) -> list[bytes] | str:
        try:
            return [part.tobytes() for part in partition(y, sites, name, seed, subjects, **options)]
        except UserError as error:
            return str(error)

    assert dealt(alone) == dealt(None)
    most = int(np.unique(y, return_counts=True)[1].min())
    for number, fraction in ((1 + seed % most, None), (None, (seed % 99 + 1) / 100), (None, None)):
        plain = choose_labelled(y, number, fraction, seed)
        assert np.array_equal(choose_labelled(y, number, fraction, seed, alone, sites), plain)


@settings(max_examples=60)
@given(labels, owners, st.booleans(), st.integers(1, 8), st.integers(0, 2**40))
def test_labels_of_subjects_are_as_many_as_asked_and_nested(y, owner, one_class, sites, seed) -> None:
    subjects, counts = people(y, *owner, one_class=one_class), np.unique(y, return_counts=True)[1]
    by_number = [choose_labelled(y, number, None, seed, subjects, sites) for number in range(1, counts.min() + 1)]
    for number, chosen in enumerate(by_number, 1):
        assert np.unique(y[chosen], return_counts=True)[1].tolist() == [number] * len(counts)
    shares = [0.01, 0.25, 0.3, 0.5, 0.75, 0.999, 1.0]
    by_share = [choose_labelled(y, None, share, seed, subjects, sites) for share in shares]
    for share, chosen in zip(shares, by_share, strict=True):
        assert np.unique(y[chosen], return_counts=True)[1].tolist() == [max(1, round(share * n)) for n in counts.tolist()]
    for choices in (by_number, by_share):
        assert all(set(less.tolist()) <= set(more.tolist()) for less, more in pairwise(choices))


@settings(max_examples=60)
@given(labels, owners, st.integers(1, 6), cases, st.integers(0, 2**40))
def test_unlabeled_images_stay_with_their_subject(y, owner, sites, case, seed) -> None:
    name, options = case
    subjects = people(y, *owner, one_class=False)
    chosen = choose_labelled(y, None, 0.4, seed, subjects, sites)
    rest = np.setdiff1d(np.arange(len(y)), chosen)
    try:
        mine = [chosen[part] for part in partition(y[chosen], sites, name, seed, [subjects[i] for i in chosen], **options)]
        at = {subjects[i]: site for site, part in enumerate(mine) for i in part.tolist()}
        others = [
            rest[part] for part in partition(y[rest], sites, name, seed, [subjects[i] for i in rest], Standing(at), **options)
        ]
    except UserError:
        return
    together = [np.concatenate(pair) for pair in zip(mine, others, strict=True)]
    assert np.array_equal(np.sort(np.concatenate(together)), np.arange(len(y)))
    assert all(len(found) == 1 for found in sites_of(subjects, together).values())


def test_people_with_an_image_of_each_class_are_labelled_and_dealt_whole() -> None:
    y, subjects = np.tile(np.arange(26), 12), [f"drawer {i // 26}" for i in range(12 * 26)]
    chosen = choose_labelled(y, 4, None, 0, subjects, 4)
    assert len({subjects[i] for i in chosen}) == 4
    parts = partition(y[chosen], 4, "iid", 0, [subjects[i] for i in chosen])
    assert (label_table(y[chosen], parts, range(26)) == 1).all()
    # One label of each class for four sites together: four people, though one would do.
    assert len({subjects[i] for i in choose_labelled(y, 1, None, 0, subjects, 4)}) == 4


def test_even_sites_stay_nearly_even() -> None:
    rng = np.random.default_rng(0)
    diagnosis, images = rng.integers(0, 3, 90), rng.integers(1, 12, 90)
    y, subjects = np.repeat(diagnosis, images), [f"p{i}" for i in np.repeat(np.arange(90), images)]
    table = label_table(y, partition(y, 4, "iid", 0, subjects), range(3))
    assert (table.max(0) - table.min(0) <= 2).all()
    sizes = sorted(map(len, partition(y, 4, "quantity", 0, subjects, skew=1.0)), reverse=True)
    asked = sorted(map(len, partition(y, 4, "quantity", 0, skew=1.0)), reverse=True)
    assert np.abs(np.subtract(sizes, asked)).max() <= 12


@pytest.mark.parametrize(
    ("name", "sites", "options", "text"),
    [
        ("iid", 5, {}, "over 5 sites: subjects stay whole, and the 40 labelled images are of 4 subject(s); 4 site(s) would fit"),
        ("quantity", 3, {"min_per_site": 12}, "leave a site 10; 10 image(s) a site, or fewer sites, would fit"),
        ("pathological", 4, {"classes_per_site": 1}, "'p0' has labelled images of 2 classes, so that sites would hold other"),
    ],
)
def test_what_whole_subjects_cannot_meet_says_what_fits(name: str, sites: int, options: dict, text: str) -> None:
    y, subjects = np.tile([0, 1], 20), [f"p{i // 10}" for i in range(40)]
    with pytest.raises(UserError) as error:
        partition(y, sites, name, 0, subjects, **options)
    assert text in str(error.value)


def test_a_class_of_too_few_subjects_is_named() -> None:
    y, subjects = np.repeat([0, 1], 10), [f"p{i}" if i < 10 else f"q{i % 2}" for i in range(20)]
    with pytest.raises(UserError, match="class 1 at 3 sites, but subjects stay whole, and 2 have labelled images of it"):
        partition(y, 3, "pathological", 0, subjects, classes_per_site=2)


def test_a_plug_in_that_keeps_subjects_whole_is_obeyed_and_another_is_mended() -> None:
    PARTITIONERS.add("halves")(lambda y, sites, rng: np.array_split(np.arange(len(y)), sites))
    try:
        y, subjects = np.zeros(12, int), [f"p{i // 3}" for i in range(12)]
        assert [part.tolist() for part in partition(y, 2, "halves", 0, subjects)] == [list(range(6)), list(range(6, 12))]
        torn = partition(y, 3, "halves", 0, [f"p{i % 5}" for i in range(12)])
        assert all(len(found) == 1 for found in sites_of([f"p{i % 5}" for i in range(12)], torn).values())
        assert sorted(map(len, torn)) == [3, 4, 5]
    finally:
        del PARTITIONERS._parts["halves"]
