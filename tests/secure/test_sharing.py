"""Secrets put together from shares some of which are wrong: what they were, or nothing, with bounded work."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from mpssl_fed.secure import decoding, sharing
from mpssl_fed.secure.errors import OpenError
from mpssl_fed.secure.opening import open_sum
from mpssl_fed.secure.sharing import Rebuilding
from tests.secure.sites import WHEN, Fleet, shown, terms, vectors

Dealt = tuple[bytes, dict[int, bytes]]


def _dealt(threshold: int, sites: int, liars: set[int], secret: bytes | None = None) -> Dealt:
    secret = os.urandom(16) if secret is None else secret
    right = dict(enumerate(sharing.split(secret, threshold, sites), start=1))
    return secret, {place: os.urandom(16) if place in liars else share for place, share in right.items()}


@pytest.fixture
def combined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each set of shares that was put together."""
    real: Callable[..., bytes] = sharing.Shamir.combine
    calls: list[int] = []

    def combine(shares: list[tuple[int, bytes]], ssss: bool) -> bytes:
        calls.append(len(shares))
        return real(shares, ssss=ssss)

    monkeypatch.setattr(sharing.Shamir, "combine", staticmethod(combine))
    return calls


@pytest.mark.parametrize("secret", [None, bytes(16), bytes(15) + b"\1"])
@pytest.mark.parametrize("seed", range(8))
def test_decoding_finds_the_secret_and_who_lied_up_to_half_of_the_shares_beyond_the_threshold(
    seed: int, secret: bytes | None
) -> None:
    draws = random.Random(seed)
    sites = draws.randint(2, 14)
    threshold = draws.randint(2, sites)
    answered = sorted(draws.sample(range(1, sites + 1), draws.randint(threshold, sites)))
    liars = set(draws.sample(answered, (len(answered) - threshold) // 2))
    want, shares = _dealt(threshold, sites, liars, secret)
    assert decoding.decoded([(place, shares[place]) for place in answered], threshold) == (want, liars)


def test_twelve_liars_of_fifty_cost_a_sum_one_search(combined: list[int]) -> None:
    liars = set(range(2, 26, 2))
    rebuilding = Rebuilding(26)
    for _ in range(3):
        secret, shares = _dealt(26, 50, liars)
        assert rebuilding.secret(shares, list(shares), secret.__eq__) == secret
    assert rebuilding.doubted == liars
    assert combined == [26] * 3


def test_more_liars_than_can_be_decoded_are_found_by_trying_and_remembered(combined: list[int]) -> None:
    rebuilding, liars = Rebuilding(4), {1, 2, 5}
    for _ in range(4):
        secret, shares = _dealt(4, 7, liars)
        assert rebuilding.secret(shares, list(shares), secret.__eq__) == secret
    assert rebuilding.doubted == liars
    assert len(combined) <= 1 + 35 + 3 + 3  # the first, every four of seven, those left over, and one for each secret more


def test_a_sum_of_which_too_many_shares_are_wrong_is_given_up_after_so_many_tries(combined: list[int]) -> None:
    rebuilding = Rebuilding(9, tries=30)
    for _ in range(2):
        secret, shares = _dealt(9, 16, set(range(1, 9)))
        with pytest.raises(OpenError, match="committed"):
            rebuilding.secret(shares, list(shares), secret.__eq__)
    assert len(combined) == 30 + 2


@pytest.mark.parametrize(
    ("sites", "by", "liars", "named"), [(4, (1, 3, 4), 1, None), (4, (1, 2, 3, 4), 2, 2), (7, (1, 3, 4, 5), 1, None)]
)
def test_a_dealer_is_named_only_where_those_who_answered_cannot_have_hidden_its_secret(
    sites: int, by: tuple[int, ...], liars: int, named: int | None
) -> None:
    """By terms under which one site may lie; where two do, an honest dealer is named, as the table of the documents says."""
    fleet = Fleet.of(sites, terms(slots=1))
    masked = fleet.masked(vectors(fleet.places))
    view = shown(0, *WHEN, fleet.places, fleet.places)
    answers = fleet.answers(view, by)
    for place in by[-liars:]:
        answers[place].seeds[2] = bytes(16)
    total = sum(masked.values(), start=0 * masked[1])
    with pytest.raises(OpenError) as lost:
        open_sum(fleet.epoch, view, total, answers)
    assert lost.value.place == named
