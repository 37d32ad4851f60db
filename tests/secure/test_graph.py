"""Graphs of few neighbours: what they are like, how many neighbours are enough, and sums over them."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpssl_fed.secure import graph
from mpssl_fed.secure.epoch import Epoch
from mpssl_fed.secure.errors import Decline, OpenError
from mpssl_fed.secure.graph import EXPOSED, LOST
from mpssl_fed.secure.member import Member
from mpssl_fed.secure.terms import MOST_OF_FEW, Floor, TermsError
from tests.secure.sites import WHEN, Fleet, shown, terms, vectors


def _connected(joined: Mapping[int, frozenset[int]], left: Iterable[int]) -> bool:
    todo, rest = [], set(left)
    todo.append(rest.pop())
    while todo:
        reached = joined[todo.pop()] & rest
        rest -= reached
        todo += reached
    return not rest


@pytest.mark.parametrize(("sites", "degree"), [(33, 18), (200, 46), (1000, 54)])
def test_a_graph_is_regular_symmetric_and_another_for_each_seed(sites: int, degree: int) -> None:
    one, same, other = (graph.drawn(seed, sites, degree) for seed in (b"one", b"one", b"other"))
    assert one == same != other
    assert set(one) == set(range(1, sites + 1))
    assert all(len(near) == degree and place not in near for place, near in one.items())
    assert all(place in one[neighbour] for place, near in one.items() for neighbour in near)
    assert _connected(one, one)


@pytest.mark.parametrize("marked", [1, 2, 3, 4])
def test_both_chances_against_every_order_of_seven_sites_on_the_circle(marked: int) -> None:
    """Of one site's neighbours the tail is exact; that the rest falls apart is bounded, and bounded well where runs are rare."""
    gone = frozenset(range(1, marked + 1))
    orders = [graph.joined((7, *order), 4) for order in itertools.permutations(range(1, 7))]
    for least in range(1, 5):
        found = Fraction(sum(len(one[7] & gone) >= least for one in orders), len(orders))
        assert float(found) == pytest.approx(graph.tail(6, marked, 4, least), abs=1e-15)
    apart = Fraction(sum(not _connected(one, set(one) - gone) for one in orders), len(orders))
    assert apart <= graph.apart(7, marked, 4)
    assert (graph.apart(7, marked, 4) == 0) == (marked < 2)


def test_how_often_larger_graphs_fall_apart_or_expose_a_site_is_what_the_bounds_say() -> None:
    """Four thousand draws, of degrees so low that they fail often."""
    draws, sites, colluding, gone = 4000, 40, 6, 10
    graphs = [graph.drawn(os.urandom(16), sites, 8) for _ in range(draws)]
    removed, bad = set(range(1, colluding + gone + 1)), set(range(1, colluding + 1))
    apart = sum(not _connected(one, set(one) - removed) for one in graphs) / draws
    bound = graph.apart(sites, len(removed), 8)
    assert 0 < apart <= bound + 5 * math.sqrt(bound / draws)
    for threshold in (3, 4, 5):
        bound = (sites - colluding) * graph.tail(sites - 1, colluding, 8, threshold)  # of honest sites
        seen = [sum(len(near & bad) >= threshold for place, near in one.items() if place not in bad) for one in graphs]
        assert sum(count > 0 for count in seen) / draws <= bound + 5 * math.sqrt(bound / draws)
        assert np.mean(seen) == pytest.approx(bound, abs=5 * np.std(seen) / math.sqrt(draws) + 1e-9)  # a union bound counts these


@pytest.mark.parametrize(("sites", "colluding"), [(33, 0), (40, 4), (100, 10), (200, 20), (1000, 100)])
def test_no_fewer_neighbours_are_enough(sites: int, colluding: int) -> None:
    gone, slots = sites // 4, 8
    found = graph.solved(sites, colluding, gone, slots)
    assert found is not None

    def fit(degree: int, threshold: int) -> bool:
        exposed = sites * graph.tail(sites - 1, colluding, degree, threshold)
        parts = slots * graph.apart(sites, colluding + gone, degree)
        lost = slots * sites * graph.tail(sites - 1, gone, degree, degree - threshold + 1)
        return exposed <= EXPOSED / 2 and parts <= EXPOSED / 2 and lost <= LOST

    assert fit(found.degree, found.threshold)
    assert not fit(found.degree, found.threshold + 1)
    assert not any(fit(degree, threshold) for degree in (found.degree - 2, found.degree - 4) for threshold in range(2, degree + 1))
    assert graph.solved(sites, colluding, gone, 64).degree >= found.degree  # type: ignore[union-attr]


def test_terms_of_few_neighbours_want_most_sites_and_no_active_server() -> None:
    few = terms(few=True, colluding=2, min_sites=4)
    assert few.solved(32).degree == 0
    solved = few.solved(100)
    assert (solved.min_sites, solved.degree, solved.threshold) == (75, *(graph.solved(100, 2, 25, 2).__dict__.values()))
    for changed, sites, said in (
        ({"signed": True}, 40, "peers"),
        ({"threshold": 30}, 40, "threshold"),
        ({}, MOST_OF_FEW + 1, "at most 1000"),
        ({"colluding": 30, "min_sites": 38}, 40, "no graph"),
        ({"range": 2.0**62}, 40, "no digits"),
    ):
        with pytest.raises(TermsError, match=said):
            replace(few, **changed).solved(sites)
    with pytest.raises(Decline, match="terms"):
        Fleet.of(33, terms(few=True), Floor(2, 0, signed=True))


@pytest.fixture(scope="module")
def forty() -> Fleet:
    """Few neighbours, eight slots."""
    return Fleet.of(40, terms(few=True, slots=8))


@pytest.mark.parametrize("slot", range(6))
def test_whoever_falls_out_of_forty_the_sum_is_that_of_those_that_stay(slot: int, forty: Fleet) -> None:
    draws, when = np.random.default_rng(slot), ("run", slot + 1)
    asked = tuple(sorted(int(p) for p in draws.choice(forty.places, draws.integers(33, 41), replace=False)))
    stayed = tuple(sorted(int(p) for p in draws.choice(asked, draws.integers(30, len(asked) + 1), replace=False)))
    given = vectors(asked)
    masked, view = forty.masked(given, slot, when), shown(slot, *when, asked, stayed)
    by = tuple(p for p in forty.places if p in stayed or p not in asked)
    got = forty.opened(masked, view, by)
    assert np.array_equal(got, sum((given[p] for p in stayed), np.zeros(9, dtype=np.uint64)))


def test_too_few_survivors_and_too_few_of_one_sites_neighbours_open_nothing(forty: Fleet) -> None:
    given = vectors(forty.places)
    masked = forty.masked(given, 7, ("run", 8))
    with pytest.raises(Decline, match="terms"):
        forty.members[1].unmask(shown(7, "run", 8, forty.places, forty.places[:29]))
    view, near = shown(7, "run", 8, forty.places, forty.places), sorted(forty.epoch.neighbours(1))
    threshold = forty.epoch.terms.threshold
    silent = {1, *near[threshold - 1 :]}
    with pytest.raises(OpenError, match=f"{threshold - 1} shares of {threshold}"):
        forty.opened(masked, view, tuple(p for p in forty.places if p not in silent))


def test_a_site_holds_nothing_of_those_that_are_no_neighbours(forty: Fleet) -> None:
    epoch = forty.epoch
    for place, one in forty.members.items():
        assert set(one.dealt) == epoch.neighbours(place)
        assert len(one.dealt) == epoch.terms.degree < len(forty.places) - 1
        assert set(one.slots[-1].held) <= {place, *epoch.neighbours(place)}


def test_a_graph_is_drawn_from_what_all_committed_to() -> None:
    proposed = terms(few=True, slots=1)
    made = [Member.new(Ed25519PrivateKey.generate(), proposed, Floor(2)) for _ in range(33)]
    hellos = [one.hello for one in made]
    parts = {one.hello: one.reveal(hellos) for one in made}
    nonces = [parts[one] for one in Epoch.of(hellos, proposed).hellos]
    one = made[0]
    for wrong in ([], nonces[1:], nonces[::-1], [*nonces[1:], nonces[0]], [os.urandom(32), *nonces[1:]]):
        with pytest.raises(Decline, match="malformed"):
            one.join(hellos, nonces=wrong)
    with pytest.raises(Decline, match="closed"):
        one.reveal([*hellos[:-1], Member.new(Ed25519PrivateKey.generate(), proposed, Floor(2)).hello])
    assert len(one.join(hellos, nonces=nonces)) == 18


def test_two_hundred_sites_make_an_exact_sum() -> None:
    fleet = Fleet.of(200, terms(few=True, slots=1, colluding=5, min_sites=7))
    draws = np.random.default_rng(0)
    stayed = tuple(sorted(int(p) for p in draws.choice(fleet.places, 160, replace=False)))
    given = vectors(fleet.places)
    got = fleet.opened(fleet.masked(given), shown(0, *WHEN, fleet.places, stayed), stayed)
    assert np.array_equal(got, sum((given[p] for p in stayed), np.zeros(9, dtype=np.uint64)))
