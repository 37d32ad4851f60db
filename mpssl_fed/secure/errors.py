"""What ends a site's part in a sum, each with a code; and what a server cannot open."""

from __future__ import annotations

from typing import Literal

Why = Literal["terms", "epoch", "closed", "malformed"]


class Decline(Exception):  # noqa: N818  it is an answer, not a fault
    """A site declines. terms: they are looser than its own, or do not fit the sites; epoch: it holds no keys of that epoch;
    closed: that slot or round has had its one answer; malformed: a message or share is not what the protocol says."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


class TermsError(ValueError):
    """Terms that cannot be met, with the key to change."""


class OpenError(Exception):
    """A sum cannot be opened: too few answers, or shares that rebuild no secret that was committed to.

    place: of the site whose secret that is, where threshold + max(t, 1) answered: it dealt shares wrongly, or more than max(t, 1)
    of them lie. None where fewer answered: nobody can tell then.
    """

    def __init__(self, why: str, place: int | None = None) -> None:
        super().__init__(why)
        self.place = place
