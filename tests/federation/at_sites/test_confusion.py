"""Shares of noisy tables: Wilson's interval without noise, and 95 % with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mpssl_fed.federation.server.confusion import measures, pooled, share, told

SETS = 2000


@given(st.integers(0, 300), st.integers(0, 300))
def test_without_noise_it_is_wilsons_interval(right: int, wrong: int) -> None:
    value, low, high = share(right, wrong)
    if not right + wrong:
        assert (value, low, high) == (None, 0.0, 1.0)
        return
    theirs = binomtest(right, right + wrong).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert value == right / (right + wrong)


@given(st.floats(-50, 400), st.floats(-50, 400), st.integers(1, 90), st.integers(1, 90), st.floats(0, 60))
def test_noise_only_widens_and_whatever_comes_is_a_share(right: float, wrong: float, a: int, c: int, std: float) -> None:
    value, low, high = share(right, wrong, (a, c), std)
    assert 0 <= low <= (low if value is None else value) <= high <= 1
    _, bare_low, bare_high = share(right, wrong, (a, c))
    assert low <= bare_low + 1e-9
    assert high >= bare_high - 1e-9


CASES = [(n, p, std) for n in (60, 400) for p in (0.6, 0.9, 1.0) for std in (0.0, 3.0, 20.0)]


@pytest.mark.parametrize(("n", "p", "std"), CASES)
def test_intervals_cover_in_2000_sets(n: int, p: float, std: float) -> None:
    """Of each kind of share in a table of three classes, whose units are drawn and whose counts are noised."""
    rng, classes = np.random.default_rng([n, int(100 * p), int(std)]), 3
    cells = np.full((classes, classes), (1 - p) / (classes - 1) / classes)
    np.fill_diagonal(cells, p / classes)
    tables = rng.multinomial(n, cells.ravel(), size=SETS).reshape(SETS, classes, classes) + std * rng.standard_normal((SETS, 3, 3))
    true = {"accuracy": p, "sensitivity": p, "specificity": 1 - (1 - p) / (classes - 1)}
    hit = dict.fromkeys(true, 0)
    for table in tables:
        found = measures(table, std)
        for name, value in true.items():
            one = found[name] if name == "accuracy" else found[name][1]
            hit[name] += one[1] - 1e-6 <= value <= one[2] + 1e-6
    # Wilson's own coverage at these n falls to 0.93 for some p; 0.015 are three standard errors
    assert min(hit.values()) / SETS > 0.93 - 0.015, {name: n / SETS for name, n in hit.items()}


def test_what_a_table_says_of_each_class() -> None:
    """Sick 12 of 16 found, 4 missed; healthy 30 of 40 named healthy, 6 sick, 4 unclear; unclear 3 of 4."""
    found = measures(np.array([[12.0, 3.0, 1.0], [6.0, 30.0, 4.0], [0.0, 1.0, 3.0]]), 0.0)
    assert found["accuracy"][0] == 45 / 60
    assert [one[0] for one in found["sensitivity"]] == [12 / 16, 30 / 40, 3 / 4]
    assert [one[0] for one in found["specificity"]] == pytest.approx([38 / 44, 16 / 20, 51 / 56], abs=1e-6)
    assert found["counts"][1] == [6.0, 30.0, 4.0]
    wilson = binomtest(12, 16).proportion_ci(method="wilson")
    assert found["sensitivity"][0][1:] == pytest.approx([wilson.low, wilson.high], abs=1e-6)


def test_pooled_tables_add_up_and_so_do_their_variances() -> None:
    one, other = np.array([[5.0, 1.0], [2.0, 8.0]]), np.array([[1.0, 0.5], [-2.0, 3.0]])
    counts, std = pooled([(one, 3.0), (other, 4.0)])
    assert np.array_equal(counts, one + other)
    assert std == 5.0
    found = told({2: (one, 3.0), 7: (other, 4.0)}, ["no", "yes"], "subject")
    assert found["pooled"] == measures(one + other, 5.0)
    assert list(found["sites"]) == ["2", "7"]
    assert told({}, ["no", "yes"], "image")["pooled"] is None
