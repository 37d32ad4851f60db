"""Shares some of which are wrong, as a Reed-Solomon code word: S. Gao, "A new algorithm for decoding Reed-Solomon codes" (2003).

It finds what pycryptodome's ``Shamir.combine`` would give of the right ones alone. No secret of this side is at stake, and what
comes out counts for nothing before it has been held against its owner's commitment. Elements of GF(2^128) are integers, bit i the
coefficient of x^i modulo 1 + x + x^2 + x^7 + x^128; a polynomial is the list of its coefficients, the constant one first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

Poly = list[int]
DEGREE = 128
ALL = (1 << DEGREE) - 1


def decoded(shares: Sequence[tuple[int, bytes]], threshold: int) -> tuple[bytes, set[int]] | None:
    """Return the secret of ``shares`` ((place, 16 bytes), places differ) and the places of those that are wrong.

    None where more of them are wrong than half of those beyond ``threshold``; with more, it may be another secret.
    """
    points = [(place, int.from_bytes(share, "big")) for place, share in shares]
    all_places, through = [1], _through(points)
    for place, _ in points:
        all_places = _plus([0, *all_places], [_times(place, one) for one in all_places])
    older, rest, before, factor = all_places, through, list[int](), [1]
    while 2 * (len(rest) - 1) >= len(points) + threshold:
        quotient, remainder = _divided(older, rest)
        older, rest = rest, remainder
        before, factor = factor, _plus(before, _product(quotient, factor))
    found, left = _divided(rest, factor)
    if left or len(found) > threshold:
        return None
    wrong = {place for place, value in points if _at(found, place) != value}
    return (found[0] if found else 0).to_bytes(16, "big"), wrong


def _through(points: Sequence[tuple[int, int]]) -> Poly:
    """Return the polynomial of least degree through ``points``: Newton's divided differences."""
    places, values = [place for place, _ in points], [value for _, value in points]
    for step in range(1, len(points)):
        for i in range(len(points) - 1, step - 1, -1):
            values[i] = _times(values[i] ^ values[i - 1], _inverse(places[i] ^ places[i - step]))
    found: Poly = []
    for place, value in zip(reversed(places), reversed(values), strict=True):
        found = _plus(_plus([0, *found], [_times(place, one) for one in found]), [value])
    return found


def _at(poly: Poly, place: int) -> int:
    value = 0
    for one in reversed(poly):
        value = _times(place, value) ^ one
    return value


def _plus(one: Poly, other: Poly) -> Poly:
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return _trimmed([value ^ (shorter[i] if i < len(shorter) else 0) for i, value in enumerate(longer)])


def _product(one: Poly, other: Poly) -> Poly:
    found = [0] * (len(one) + len(other))
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            found[i + j] ^= _times(a, b)
    return _trimmed(found)


def _divided(one: Poly, by: Poly) -> tuple[Poly, Poly]:
    """Return quotient and remainder."""
    rest, quotient, lead = list(one), [0] * max(len(one) - len(by) + 1, 0), _inverse(by[-1])
    for at in reversed(range(len(quotient))):
        quotient[at] = _times(rest[at + len(by) - 1], lead)
        for i, value in enumerate(by):
            rest[at + i] ^= _times(quotient[at], value)
    return _trimmed(quotient), _trimmed(rest)


def _trimmed(poly: Poly) -> Poly:
    while poly and not poly[-1]:
        poly.pop()
    return poly


def _times(one: int, other: int) -> int:
    if one < other:
        one, other = other, one
    found = 0
    while other:
        if other & 1:
            found ^= one
        one <<= 1
        other >>= 1
    while found > ALL:
        high = found >> DEGREE
        found = (found & ALL) ^ high ^ (high << 1) ^ (high << 2) ^ (high << 7)
    return found


@lru_cache(maxsize=4096)
def _inverse(one: int) -> int:
    """Return one^(2^128 - 2)."""
    found = 1
    for _ in range(DEGREE - 1):
        one = _times(one, one)
        found = _times(found, one)
    return found
