"""Sites that fall out at every stage: before they are asked, while they train, before they answer to open the sum.

What is opened is the sum of those that stayed until they had sent, or nothing. One fleet serves all patterns of a size: what a slot
did is taken back, and what the same shares or keys give is worked out once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from mpssl_fed.secure import keys, sharing
from mpssl_fed.secure.errors import Decline, OpenError
from mpssl_fed.secure.member import Answer
from mpssl_fed.secure.opening import open_sum
from tests.secure.sites import WHEN, Fleet, shown, terms, vectors

Pattern = tuple[str, ...]
STAGES = "akton"
"""A site is not asked and answers to open, or not asked and silent (its keys are gone); it is asked and falls out as it trains, or
before it answers to open; or never."""


@pytest.fixture(autouse=True)
def _worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    combine, agreed = sharing.Shamir.combine, keys.agreed
    shared = cache(lambda shares: combine(list(shares), ssss=False))
    monkeypatch.setattr(sharing.Shamir, "combine", staticmethod(lambda shares, ssss: shared(tuple(shares))))
    pairs: dict[Any, bytes] = {}

    def once(mine: Any, theirs: bytes) -> bytes:
        pair = frozenset((keys.public_of(mine), theirs))
        return pairs.get(pair) or pairs.setdefault(pair, agreed(mine, theirs))

    monkeypatch.setattr(keys, "agreed", once)


class Patterns:
    """A fleet on which every pattern is played from the same start, and its vectors."""

    def __init__(self, sites: int, **changed: Any) -> None:
        self.fleet = Fleet.of(sites, terms(slots=1, **changed))
        self.given = vectors(self.fleet.places)
        self.masked = cache(self._masked)
        self.answers = cache(self._answers)

    def _fresh(self) -> Fleet:
        return Fleet({p: replace(one, slots=[replace(one.slots[0])]) for p, one in self.fleet.members.items()})

    def _masked(self, asked: tuple[int, ...]) -> tuple[Fleet, dict[int, np.ndarray]]:
        fleet = self._fresh()
        return fleet, fleet.masked({place: self.given[place] for place in asked})

    def _answers(self, asked: tuple[int, ...], stayed: tuple[int, ...]) -> dict[int, Answer]:
        before, self.fleet = self.fleet, self.masked(asked)[0]
        try:
            return self._fresh().answers(shown(0, *WHEN, asked, stayed))
        finally:
            self.fleet = before

    def play(self, pattern: Pattern) -> bool:
        """Play one and return whether its sum was opened, and rightly so."""
        at = {stage: tuple(p for p, one in enumerate(pattern, start=1) if one in stage) for stage in ("ton", "on", "an")}
        asked, stayed, by = at.values()
        agreed = self.fleet.epoch.terms
        if not asked:
            return False
        if len(asked) < agreed.fewest:
            with pytest.raises(Decline, match="terms"):
                self._fresh().masked({place: self.given[place] for place in asked})
            return False
        _, masked = self.masked(asked)
        if len(stayed) < agreed.fewest:
            with pytest.raises(Decline, match="terms"):
                self.answers(asked, stayed)
            return False
        said = self.answers(asked, stayed)
        total = sum((masked[p] for p in stayed), np.zeros(9, dtype=np.uint64))
        view, given = shown(0, *WHEN, asked, stayed), {place: said[place] for place in by}
        if len(by) < agreed.threshold:
            with pytest.raises(OpenError):
                open_sum(self.fleet.epoch, view, total, given)
            return False
        want = sum((self.given[p] for p in stayed), np.zeros(9, dtype=np.uint64))
        assert np.array_equal(open_sum(self.fleet.epoch, view, total, given), want), pattern
        return True


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("sites", [2, 3, 4, 5])
def test_every_pattern_of_a_few_sites_opens_to_the_sum_of_those_that_sent(sites: int, signed: bool) -> None:
    patterns = Patterns(sites, signed=signed)
    opened = Counter(patterns.play(one) for one in itertools.product(STAGES, repeat=sites))
    assert opened.total() == 5**sites
    assert all(opened.values())


@pytest.mark.parametrize("changed", [{}, {"signed": True}, {"colluding": 2, "min_sites": 4}])
@pytest.mark.parametrize("sites", [6, 7])
def test_however_many_of_six_or_seven_sites_fall_out_at_which_stage(sites: int, changed: dict[str, Any]) -> None:
    """Every number of sites at every stage; which ones they are is drawn, since all patterns are 78,125."""
    patterns, draws = Patterns(sites, **changed), np.random.default_rng(sites)
    opened = Counter(patterns.play(one) for one in _placed(sites, draws, 2))
    assert all(opened[way] > 10 for way in (True, False))


@pytest.mark.parametrize("seed", range(3))
def test_fifty_sites_that_fall_out_at_random(seed: int) -> None:
    patterns, draws = _fifty(), np.random.default_rng(seed)
    shares = draws.dirichlet([1, 1, 1, 1, 8])
    patterns.play(tuple(draws.choice(list(STAGES), 50, p=shares)))


def _placed(sites: int, draws: np.random.Generator, times: int) -> Iterator[Pattern]:
    for counts in itertools.combinations_with_replacement(STAGES, sites):
        for _ in range(times):
            yield tuple(draws.permutation(list(counts)))


@cache
def _fifty() -> Patterns:
    return Patterns(50, colluding=3, min_sites=10)
