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
    threshold, opened = epoch.terms.threshold, total.copy()
    for place in view.survivors:
        seed = _rebuilt(answers, "seeds", place, threshold, partial(_is_seed, epoch, view, place))
        self_mask(opened, epoch, view.slot, place, seed, -1)
    for place in view.participants:
        if place not in view.survivors:
            _take_off(epoch, view, place, answers, opened)
    return opened


def _take_off(epoch: Epoch, view: View, gone: int, answers: Mapping[int, Answer], opened: Integers) -> None:
    """Take the pairwise masks between the site ``gone`` and every survivor off ``opened``: those that it would have put on."""
    nonce = bytes.fromhex(epoch.hello(gone).nonce)
    public = bytes.fromhex(epoch.hello(gone).slots[view.slot])

    def right(secret: bytes) -> bool:
        return keys.same(keys.public_of(keys.slot_key(secret, nonce, view.slot)), public)

    key = keys.slot_key(_rebuilt(answers, "slots", gone, epoch.terms.threshold, right), nonce, view.slot)
    for place in view.survivors:
        pair_mask(opened, epoch, view.slot, (gone, place), key, view.request)


def _is_seed(epoch: Epoch, view: View, place: int, seed: bytes) -> bool:
    hello = epoch.hello(place)
    committed = bytes.fromhex(hello.seeds[view.slot])
    return keys.same(keys.commitment(seed, bytes.fromhex(hello.nonce), view.slot), committed)


def _rebuilt(answers: Mapping[int, Answer], kind: str, place: int, threshold: int, right: Callable[[bytes], bool]) -> bytes:
    shares = {by: getattr(answer, kind)[place] for by, answer in answers.items() if place in getattr(answer, kind)}
    try:
        return sharing.combine(shares, threshold, right)
    except OpenError as error:
        raise OpenError(str(error), place if len(answers) >= threshold else None) from error
