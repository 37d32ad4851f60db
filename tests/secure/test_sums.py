"""What integers a sum is made of, and how they are masked; that wrong shares never open to a wrong sum."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.secure import keys
from mpssl_fed.secure.errors import OpenError
from mpssl_fed.secure.opening import open_sum
from mpssl_fed.secure.quantise import Grid
from mpssl_fed.secure.terms import Floor
from tests.secure.sites import WHEN, Fleet, shown, terms, vectors


def test_slots_follow_each_other_and_each_has_masks_of_its_own() -> None:
    fleet = Fleet.of(3, terms(slots=3))
    given = vectors(fleet.places)
    sent = []
    for slot in range(3):
        masked = fleet.masked(given, slot, ("run", slot + 1))
        view = shown(slot, "run", slot + 1, fleet.places, fleet.places)
        assert np.array_equal(fleet.opened(masked, view), sum(given.values(), np.zeros(9, dtype=np.uint64)))
        sent.append(masked[1])
    assert len({one.tobytes() for one in sent}) == 3


@pytest.mark.parametrize("wrong", [1, 2])
def test_wrong_shares_are_left_out_where_enough_right_ones_are_there_and_never_give_a_wrong_sum(wrong: int) -> None:
    fleet = Fleet.of(5, terms(slots=1))
    asked, stayed = fleet.places, (1, 2, 3)
    given = vectors(asked)
    masked = fleet.masked(given)
    view = shown(0, *WHEN, asked, stayed)
    answers = fleet.answers(view)
    total = sum((masked[p] for p in stayed), np.zeros(9, dtype=np.uint64))
    for liar in range(1, wrong + 1):
        honest = answers[liar]
        answers[liar] = replace(
            honest,
            seeds={p: bytes(16) for p in honest.seeds},
            slots={p: bytes(b ^ 1 for b in s) for p, s in honest.slots.items()},
        )
    want = sum((given[p] for p in stayed), np.zeros(9, dtype=np.uint64))
    assert np.array_equal(open_sum(fleet.epoch, view, total, answers), want)
    answers.pop(5)
    if wrong == 2:
        with pytest.raises(OpenError, match="committed"):
            open_sum(fleet.epoch, view, total, answers)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_mean_is_within_the_error_that_the_terms_state(data: st.DataObject) -> None:
    """Held against exact fractions, at weights and magnitudes up to the edge."""
    sites = data.draw(st.integers(2, 8))
    agreed = terms(
        largest_weight=data.draw(st.sampled_from([1, 7, 1000, 1_000_000])),
        range=data.draw(st.sampled_from([0.5, 4.0, 16.0, 1000.0])),
    ).solved(sites)
    grid = Grid(agreed, sites)
    weights = [data.draw(st.integers(1, agreed.largest_weight)) for _ in range(sites)]
    values = [data.draw(st.floats(-agreed.range, agreed.range)) for _ in range(sites)]
    parts = [grid.to_integers(np.array([value]), weight)[0] for value, weight in zip(values, weights, strict=True)]
    found = grid.mean(sum(parts, np.zeros(2, dtype=np.uint64)))
    assert found is not None
    exact = sum((w * Fraction(v) for w, v in zip(weights, values, strict=True)), Fraction(0)) / sum(weights)
    bound = Fraction(agreed.error(sites, sum(weights))) * (1 + Fraction(1, 2**20))
    assert abs(Fraction(float(found[0][0])) - exact) <= bound + Fraction(2.0**-50) * abs(exact)
    assert found[1] == sum(weights)


def test_beyond_the_range_a_coordinate_is_clipped_and_counted() -> None:
    grid = Grid(terms().solved(3), 3)
    vector, clipped = grid.to_integers(np.array([9.0, -9.0, 1.0]), 2)
    found = grid.mean(vector)
    assert clipped == 2
    assert found is not None
    assert found[0].tolist() == [4.0, -4.0, 1.0]


@pytest.mark.parametrize(("update", "weight"), [([np.nan], 1), ([np.inf], 1), ([0.0], 0), ([0.0], 1001)])
def test_what_is_no_update_or_no_weight_is_refused(update: list[float], weight: int) -> None:
    with pytest.raises(ValueError, match=r"weight|finite"):
        Grid(terms().solved(3), 3).to_integers(np.array(update), weight)


def test_a_mask_is_aes_in_counter_mode_whatever_the_blocks_that_it_is_put_on_in() -> None:
    key, vector = bytes(range(32)), vectors((1,), 2 * keys.BLOCK + 5)[1]
    cipher = Cipher(AES(key), CTR(bytes(16))).encryptor()
    stream = np.frombuffer(cipher.update(bytes(8 * len(vector))), dtype="<u8")
    masked = vector.copy()
    keys.add_keystream(masked, key)
    assert np.array_equal(masked, vector + stream)
    keys.add_keystream(masked, key, -1)
    assert np.array_equal(masked, vector)


def test_integers_do_not_depend_on_the_blocks_that_they_are_made_in() -> None:
    grid = Grid(terms().solved(3), 3)
    update = np.random.default_rng(0).normal(0, 3, 2 * keys.BLOCK + 5)
    vector, clipped = grid.to_integers(update, 7)
    ends = [grid.to_integers(part, 7) for part in np.split(update, [9, keys.BLOCK, keys.BLOCK + 1])]
    assert np.array_equal(vector, np.append(np.concatenate([part[:-1] for part, _ in ends]), np.uint64(7)))
    assert clipped == sum(count for _, count in ends) > 0
    update[-1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        grid.to_integers(update, 7)


def test_nothing_weighs_nothing() -> None:
    assert Grid(terms().solved(3), 3).mean(np.zeros(4, dtype=np.uint64)) is None


def test_the_strictest_floor_of_all_sites_is_everybodys() -> None:
    assert Fleet.of(6, terms(), Floor(5, 2, signed=True)).epoch.terms == terms(min_sites=5, colluding=2, signed=True, threshold=5)
