from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.data.label_table import describe_partition, label_table
from mpssl_fed.data.partition import PARTITIONERS, choose_labelled, partition
from mpssl_fed.errors import UserError

labels = st.lists(st.integers(0, 9), min_size=1, max_size=120).map(np.array)
cases = st.one_of(
    st.tuples(st.just("iid"), st.just({})),
    st.tuples(st.just("dirichlet"), st.fixed_dictionaries({"alpha": st.floats(1e-4, 100), "min_per_site": st.integers(0, 3)})),
    st.tuples(st.just("pathological"), st.fixed_dictionaries({"classes_per_site": st.integers(1, 10)})),
    st.tuples(st.just("quantity"), st.fixed_dictionaries({"skew": st.floats(0, 10), "min_per_site": st.integers(0, 3)})),
)


@settings(max_examples=150, deadline=None)
@given(labels, st.integers(1, 12), cases, st.integers(0, 2**40))
def test_every_image_lives_at_one_site(y: np.ndarray, sites: int, case: tuple, seed: int) -> None:
    name, options = case
    try:
        parts = partition(y, sites, name, seed, **options)
    except UserError:
        with pytest.raises(UserError, match="would fit"):
            partition(y, sites, name, seed, **options)
        return
    assert len(parts) == sites
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(y)))
    assert min(map(len, parts)) >= options.get("min_per_site", 1)
    again = partition(y, sites, name, seed, **options)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    held = (label_table(y, parts, list("0123456789")) > 0).sum(1)
    if name == "pathological":
        assert (held == options["classes_per_site"]).all()


@settings(max_examples=50, deadline=None)
@given(labels, st.integers(1, 12), cases, st.integers(0, 99))
def test_feasible_demands_are_met(y: np.ndarray, sites: int, case: tuple, seed: int) -> None:
    name, options = case
    if name == "pathological":
        y = np.repeat(np.arange(10), 12)
        sites = max(sites, -(-10 // options["classes_per_site"]))
    else:
        sites = max(1, min(sites, len(y) // max(1, options.get("min_per_site", 1))))
        options = options if len(y) >= sites * options.get("min_per_site", 1) else {}
    assert len(partition(y, sites, name, seed, **options)) == sites


def test_iid_gives_every_site_each_class() -> None:
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 20))
    assert (label_table(y, partition(y, 5, "iid", 3), range(10)) == 4).all()


@pytest.mark.parametrize(("sites", "k"), [(10, 1), (5, 2), (2, 5)])
def test_pathological_puts_each_class_at_one_site(sites: int, k: int) -> None:
    y = np.repeat(np.arange(10), 20)
    table = label_table(y, partition(y, sites, "pathological", 7, classes_per_site=k), range(10))
    assert ((table > 0).sum(0) == 1).all()
    assert ((table > 0).sum(1) == k).all()
    assert (table.sum(0) == 20).all()


def test_dirichlet_follows_alpha() -> None:
    y = np.repeat(np.arange(10), 200)

    def largest_share(alpha: float) -> float:
        table = label_table(y, partition(y, 5, "dirichlet", 0, alpha=alpha), range(10))
        return float((table.max(0) / table.sum(0)).mean())

    assert largest_share(1000) < 0.25
    assert largest_share(0.1) > 0.5


def test_quantity_sizes_follow_the_power_law() -> None:
    y = np.zeros(1000, int)
    sizes = sorted((len(part) for part in partition(y, 4, "quantity", 0, skew=1.0, min_per_site=0)), reverse=True)
    assert sizes == [480, 240, 160, 120]
    assert {len(part) for part in partition(y, 4, "quantity", 0, skew=0.0)} == {250}


def test_seed_changes_the_partition() -> None:
    y = np.repeat(np.arange(10), 20)
    for name in set(PARTITIONERS.names()) - {"column"}:
        one, other = (np.concatenate(partition(y, 5, name, seed)) for seed in (0, 1))
        assert not np.array_equal(one, other), name


def test_larger_choices_contain_smaller_ones() -> None:
    y = np.repeat(np.arange(10), 50)
    choices = [set(choose_labelled(y, k, None, 5).tolist()) for k in (1, 4, 10, 50)]
    assert [len(choice) for choice in choices] == [10, 40, 100, 500]
    assert all(small < large for small, large in pairwise(choices))
    assert np.bincount(y[choose_labelled(y, None, 0.1, 5)]).tolist() == [5] * 10
    assert len(choose_labelled(y, None, 0.001, 5)) == 10
    assert len(choose_labelled(y, None, None, 5)) == 500


@pytest.mark.parametrize(
    ("name", "sites", "options", "text"),
    [
        ("pathological", 3, {"classes_per_site": 2}, "covers at most 6 of 10 classes; at least 4 classes per site or 5 sites"),
        ("pathological", 3, {"classes_per_site": 11}, "classes_per_site is 11; with 10 classes, 1 to 10 would fit"),
        ("pathological", 25, {"classes_per_site": 2}, "it has 4 image(s); at least 5 of each class, or fewer sites"),
        ("iid", 41, {}, "needs 41 labelled images, but there are 40; 40 sites would fit"),
        ("dirichlet", 5, {"min_per_site": 9}, "there are 40; 4 sites or 8 image(s) a site would fit"),
        ("dirichlet", 5, {"alpha": 0}, "alpha is 0; it must be above 0"),
        ("quantity", 5, {"skew": -1}, "skew is -1"),
        ("quantity", 5, {"min_per_site": -1}, "min_per_site is -1"),
        ("quantity", 5, {"skwe": 1}, "has no option 'skwe'. Did you mean 'skew'?"),
        ("iid", 0, {}, "federation.sites is 0"),
        ("dirichlett", 2, {}, "Did you mean 'dirichlet'?"),
    ],
)
def test_infeasible_demands_say_what_fits(name: str, sites: int, options: dict, text: str) -> None:
    with pytest.raises(UserError) as error:
        partition(np.repeat(np.arange(10), 4), sites, name, 0, **options)
    assert text in str(error.value)


def test_too_many_labels_say_what_fits() -> None:
    y = np.array([0] * 5 + [1] * 3)
    for arguments, text in [
        ((4, None), "of class 1 are asked for in all, but it has 3; at most 3 of each class would fit"),
        ((0, None), "labels_per_class is 0"),
        ((None, 1.5), "label_fraction is 1.5"),
        ((1, 0.5), "both set"),
    ]:
        with pytest.raises(UserError, match=text):
            choose_labelled(y, *arguments, 0)


def test_a_partitioner_that_drops_images_is_refused() -> None:
    PARTITIONERS.add("drops")(lambda y, sites, rng: [np.arange(1)] * sites)
    try:
        with pytest.raises(UserError, match="does not deal each of the 4 images"):
            partition(np.zeros(4), 2, "drops", 0)
    finally:
        del PARTITIONERS._parts["drops"]


def test_description() -> None:
    y = np.repeat(np.arange(3), 4)
    parts = partition(y, 3, "pathological", 0, classes_per_site=1)
    text = describe_partition(y, parts, ["ant", "bee", "cat"])
    assert text.splitlines()[0].split() == ["site", "ant", "bee", "cat", "all"]
    assert text.splitlines()[4].split() == ["all", "4", "4", "4", "12"]
    assert text.endswith("3 sites hold 12 labelled images: 4 to 4 per site, 1 to 1 of 3 classes per site")
    many = np.arange(40)
    assert "class-0 1" in describe_partition(many, [many], [f"class-{k}" for k in many])
