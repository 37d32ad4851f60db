"""The server's side of one sum: masked vectors added up, and their masks taken off with the answers of the sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from mpssl_fed.secure import keys, sharing
from mpssl_fed.secure.epoch import Epoch, View
from mpssl_fed.secure.errors import OpenError
from mpssl_fed.secure.keys import Integers
from mpssl_fed.secure.member import Answer, pair_mask, self_mask


def open_sum(epoch: Epoch, view: View, total: Integers, answers: Mapping[int, Answer]) -> Integers:
    """Return the sum of the survivors' vectors, of ``total``, the sum of their masked ones modulo 2^64.

    answers: by the place of who gave them; shares in them that are wrong are left out where enough right ones are there. OpenError
    where a secret cannot be rebuilt: the sum is lost then.
    """
    opened, rebuilt = total.copy(), _Rebuilt(epoch, answers)
    for place in view.survivors:
        seed = rebuilt.secret("seeds", place, partial(_is_seed, epoch, view, place))
        self_mask(opened, epoch, view.slot, place, seed, -1)
    for place in view.participants:
        if place not in view.survivors:
            _take_off(epoch, view, place, rebuilt, opened)
    return opened


def _take_off(epoch: Epoch, view: View, gone: int, rebuilt: _Rebuilt, opened: Integers) -> None:
    """Take the pairwise masks between the site ``gone`` and every survivor off ``opened``: those that it would have put on."""
    nonce = bytes.fromhex(epoch.hello(gone).nonce)
    public = bytes.fromhex(epoch.hello(gone).slots[view.slot])

    def right(secret: bytes) -> bool:
        return keys.same(keys.public_of(keys.slot_key(secret, nonce, view.slot)), public)

    key = keys.slot_key(rebuilt.secret("slots", gone, right), nonce, view.slot)
    for place in epoch.neighbours(gone) & set(view.survivors):
        pair_mask(opened, epoch, view.slot, (gone, place), key, view.request)


def _is_seed(epoch: Epoch, view: View, place: int, seed: bytes) -> bool:
    hello = epoch.hello(place)
    committed = bytes.fromhex(hello.seeds[view.slot])
    return keys.same(keys.commitment(seed, bytes.fromhex(hello.nonce), view.slot), committed)


class _Rebuilt:
    """The secrets that the answers to one view open."""

    def __init__(self, epoch: Epoch, answers: Mapping[int, Answer]) -> None:
        self.epoch, self.answers, self.rebuilding = epoch, answers, sharing.Rebuilding(epoch.terms.threshold)

    def secret(self, kind: str, place: int, right: Callable[[bytes], bool]) -> bytes:
        """Return a secret of the site at ``place``; OpenError, which names it where those who answered cannot have hidden it: were
        its shares right, more than t of them (and more than one) would have to lie."""
        holders, terms = self.epoch.holders(place), self.epoch.terms
        here = {by: getattr(self.answers[by], kind) for by in holders if by in self.answers}
        try:
            return self.rebuilding.secret({by: said[place] for by, said in here.items() if place in said}, holders, right)
        except OpenError as error:
            tells = len(here) >= terms.threshold + max(terms.colluding, 1)
            raise OpenError(str(error), place if tells else None) from error
