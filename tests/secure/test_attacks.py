"""What a server, or whoever answers in a site's place, may try: each is declined, and nothing of it opens a single site."""

from __future__ import annotations

import json
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import stats

from mpssl_fed.config import secure as config_limits
from mpssl_fed.config.secure import Secure, refuse_unfit
from mpssl_fed.secure import keys, member, sharing, stored
from mpssl_fed.secure.epoch import SignedHello, View
from mpssl_fed.secure.errors import Decline, OpenError, TermsError
from mpssl_fed.secure.member import Member
from mpssl_fed.secure.terms import MOST_SITES, MOST_SLOTS, Floor
from tests.secure.sites import REQUEST, WHEN, Fleet, shown, terms, vectors


def _declined(why: str) -> pytest.RaisesExc[Decline]:
    return pytest.raises(Decline, match=f"^{why}$")


def _masked(**changed: object) -> tuple[Fleet, View]:
    fleet = Fleet.of(4, terms(**changed))
    fleet.masked(vectors(fleet.places))
    return fleet, shown(0, *WHEN, fleet.places, fleet.places)


def test_a_slot_masks_one_vector() -> None:
    fleet, _ = _masked()
    with _declined("closed"):
        fleet.members[1].mask(0, fleet.places, "other", WHEN, vectors((1,))[1])
    with _declined("closed"):
        fleet.members[1].mask(0, fleet.places, REQUEST, WHEN, vectors((1,))[1])
    assert fleet.members[1].admit(0, fleet.places, REQUEST, WHEN)
    with _declined("closed"):
        fleet.members[1].admit(0, (1, 2, 3), REQUEST, WHEN)


def test_a_round_takes_one_slot() -> None:
    fleet, _ = _masked()
    with _declined("closed"):
        fleet.members[1].mask(1, fleet.places, REQUEST, WHEN, vectors((1,))[1])


def test_a_slot_is_opened_once_and_of_each_site_one_share_leaves() -> None:
    fleet, all_of_them = _masked()
    one = fleet.members[1]
    first = one.unmask(all_of_them)
    assert one.unmask(all_of_them) == first
    assert not first.slots
    for survivors in ((1, 2, 3), (2, 3, 4)):
        with _declined("closed"):
            one.unmask(replace(all_of_them, survivors=survivors))
    assert one.slots[0].secret is None and one.slots[0].seed is None and not one.slots[0].held  # noqa: PT018
    other = fleet.members[2].unmask(replace(all_of_them, survivors=(1, 2, 3)))
    assert set(other.seeds) == {1, 2, 3} and set(other.slots) == {4}  # noqa: PT018


def test_what_a_site_holds_after_a_sum_does_not_open_what_was_dealt_of_its_slot() -> None:
    """A server keeps every sealed share; with a site's key of them it had both secrets of that site, of closed slots too."""
    fleet = Fleet.of(4, terms())
    asked, bystander = fleet.members[1], fleet.members[4]
    for one in (asked, bystander):
        envelope = member._envelope(fleet.epoch, one.place, 2)
        assert keys.unseal(one._box(one.place, 2), one.dealt[2], envelope)  # so long as its key is there
    fleet.masked(vectors((1, 2, 3)))
    bystander.unmask(shown(0, *WHEN, (1, 2, 3), (1, 2, 3)))
    for one in (asked, bystander):
        with _declined("closed"):
            one._box(one.place, 2)
        assert one.box is None
        assert stored.load(stored.dump(one)).box is None


def test_a_round_that_was_opened_is_closed_in_other_slots_also_where_the_site_was_not_asked() -> None:
    fleet = Fleet.of(4, terms(slots=3))
    fleet.masked(vectors((1, 2, 3)))
    bystander = fleet.members[4]
    bystander.unmask(shown(0, *WHEN, (1, 2, 3), (1, 2, 3)))
    with _declined("closed"):
        bystander.mask(1, fleet.places, REQUEST, WHEN, vectors((4,))[4])
    with _declined("closed"):
        bystander.unmask(shown(1, *WHEN, (1, 2, 3), (1, 2)))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"participants": (1, 2, 3)}, "closed"),
        ({"participants": (1, 2, 3, 4, 5)}, "malformed"),
        ({"survivors": (1,)}, "terms"),
        ({"survivors": ()}, "terms"),
        ({"survivors": (1, 1, 2)}, "malformed"),
        ({"survivors": (2, 1)}, "malformed"),
        ({"slot": 2}, "malformed"),
        ({"slot": -1}, "malformed"),
        ({"slot": 1}, "closed"),
        ({"round": 2}, "closed"),
        ({"run": "other"}, "closed"),
        ({"request": "other"}, "closed"),
    ],
)
def test_a_view_that_is_not_of_what_was_masked_opens_nothing(changed: dict[str, object], why: str) -> None:
    fleet, view = _masked()
    with _declined(why):
        fleet.members[1].unmask(replace(view, **{"survivors": view.participants[:3], **changed}))  # type: ignore[arg-type]


def test_a_sum_of_fewer_than_a_site_wants_is_not_opened() -> None:
    fleet = Fleet.of(5, terms(), Floor(4))
    fleet.masked(vectors(fleet.places))
    with _declined("terms"):
        fleet.members[1].unmask(shown(0, *WHEN, fleet.places, (1, 2, 3)))
    with _declined("terms"):
        Fleet.of(5, terms(), Floor(4)).masked(vectors((1, 2, 3)))


def test_split_views_open_nothing_where_sums_are_signed() -> None:
    """Half the sites are told that 4 fell out: signatures of threshold many stand under neither view."""
    fleet, everyone = _masked(signed=True)
    without = replace(everyone, survivors=(1, 2, 3))
    signed = {1: fleet.members[1].sign(everyone), 2: fleet.members[2].sign(everyone)}
    other = {3: fleet.members[3].sign(without)}
    for place, view, given in ((1, everyone, signed), (2, everyone, signed | other), (3, without, other | signed)):
        with _declined("terms"):
            fleet.members[place].unmask(view, given)
    with _declined("closed"):
        fleet.members[1].sign(without)
    with _declined("closed"):
        fleet.members[3].unmask(everyone, signed | {4: fleet.members[4].sign(everyone)})


def test_split_views_give_no_site_away_where_they_are_not_signed() -> None:
    """2 threshold > n + t: with t sites of its own the server gets both secrets of nobody."""
    sites, colluding = 7, 2
    fleet = Fleet.of(sites, terms(colluding=colluding, min_sites=4))
    fleet.masked(vectors(fleet.places))
    need = fleet.epoch.terms.threshold
    honest = fleet.places[colluding:]
    victim = honest[-1]
    for split in range(len(honest) + 1):
        seeds = len(honest[:split]) + colluding
        slots = len(honest[split:]) + colluding
        assert min(seeds, slots) < need, (split, victim)


def test_a_signature_of_another_view_or_by_another_site_counts_for_nothing() -> None:
    fleet, view = _masked(signed=True)
    good = {place: fleet.members[place].sign(view) for place in fleet.places}
    one = fleet.members[1]
    forged = {place: fleet.members[2].identity.sign(view.text(fleet.epoch)) for place in fleet.places}
    for signatures in ({}, {1: good[1], 2: good[2]}, forged, dict.fromkeys(fleet.places, good[1]), None):
        with _declined("terms"):
            one.unmask(view, signatures)
    assert one.unmask(view, good).seeds


def test_an_epoch_is_made_of_signed_hellos_of_different_sites_for_the_same_terms() -> None:
    made = [Member.new(Ed25519PrivateKey.generate(), terms(), Floor(2)) for _ in range(3)]
    hellos = [one.hello for one in made]
    lax = Member.new(Ed25519PrivateKey.generate(), terms(range=8.0), Floor(2)).hello
    text = json.loads(hellos[1].text)
    unsigned = SignedHello(json.dumps(text | {"nonce": "0" * 64}), hellos[1].signature)
    stolen = SignedHello(json.dumps(text | {"identity": json.loads(hellos[2].text)["identity"]}), hellos[1].signature)
    one = made[0]
    for given, why in (
        ([hellos[0], hellos[0], hellos[1]], "malformed"),
        ([hellos[0], unsigned, hellos[2]], "malformed"),
        ([hellos[0], stolen], "malformed"),
        ([hellos[0], hellos[1], lax], "terms"),
        ([hellos[1], hellos[2]], "epoch"),
        ([hellos[0]], "terms"),
    ):
        with _declined(why):
            one.join(given)
    assert one.epoch is None
    dealt = one.join(hellos)
    assert one.join(hellos[::-1]) == dealt
    with _declined("closed"):
        one.join(hellos[:2])


def test_an_invented_site_is_no_peer() -> None:
    made = [Member.new(Ed25519PrivateKey.generate(), terms(), Floor(2)) for _ in range(4)]
    peers = [keys.fingerprint(one.hello.hello.public) for one in made[:3]]
    with _declined("terms"):
        made[0].join([one.hello for one in made], peers)
    assert made[0].join([one.hello for one in made[:3]], peers)


def test_shares_for_another_site_or_epoch_are_left_and_stop_nobody() -> None:
    fleet, other = Fleet.of(4, terms()), Fleet.of(4, terms())
    for sealed in (fleet.members[2].dealt[1], other.members[2].dealt[1], fleet.members[2].dealt[3], b"", bytes(80)):
        made = [Member.new(one.identity, terms(), Floor(2)) for one in fleet.members.values()]
        for one in made:
            one.join([each.hello for each in made])
        first = made[0]
        first.receive({place: sealed for place in (*fleet.places, 0, 5) if place != first.place})
        assert set(first.slots[0].held) == {first.place}
        assert first.mask(0, fleet.places, REQUEST, WHEN, vectors((1,))[1]).size


def test_a_site_that_deals_junk_is_named_by_what_cannot_be_opened() -> None:
    made = [Member.new(Ed25519PrivateKey.generate(), terms(slots=1), Floor(2)) for _ in range(4)]
    for one in made:
        one.join([each.hello for each in made])
    members = {one.place: one for one in made}
    members[2].dealt = {place: bytes(len(sealed)) for place, sealed in members[2].dealt.items()}
    for place, one in members.items():
        one.receive({by: dealer.dealt[place] for by, dealer in members.items() if by != place})
    fleet = Fleet(members)
    sent = fleet.masked(vectors(fleet.places))
    for survivors in (fleet.places, (1, 3, 4)):
        lone = deepcopy(fleet.members)
        with pytest.raises(OpenError) as lost:
            Fleet(lone).opened(sent, shown(0, *WHEN, fleet.places, survivors))
        assert lost.value.place == 2


def test_terms_that_hide_nobody_are_no_terms() -> None:
    for changed in ({"threshold": 2}, {"threshold": 5}, {"colluding": 1}, {"min_sites": 5}, {"range": 2.0**62}):
        with _declined("terms"):
            Fleet.of(4, terms(**changed))


@pytest.mark.parametrize("planted", ["", "self_mask", "pair_mask"])
def test_what_a_server_sees_of_one_site_is_noise(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a site with one of two inputs, all else alike: what it sends, without its pairwise masks (it fell out), and without its
    self mask (it stayed). Bytes are uniform and both inputs look alike; with either mask off they do not."""
    if planted:
        monkeypatch.setattr(member, planted, lambda *_: None)
    seen = [_seen_of_site_2(value, stays) for value in (0, 7) for stays in (False, True)]
    assert min(_uniform(sent) for sent, _ in seen) > 1e-6
    rebuilt = [_uniform(rest) for _, rest in seen]
    if planted:
        assert min(rebuilt) < 1e-9
    else:
        assert min(rebuilt) > 1e-6
        for one, other in ((0, 2), (1, 3)):
            for part in (0, 1):
                assert stats.ks_2samp(seen[one][part].astype(float), seen[other][part].astype(float)).pvalue > 1e-6


def _seen_of_site_2(value: int, stays: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return what site 2 of 3 sends, and what is left of it once the answers of the others took off what they may."""
    fleet = Fleet.of(3, terms(slots=1))
    epoch = fleet.epoch
    sent = fleet.masked({place: np.full(4096, value, dtype=np.uint64) for place in fleet.places})[2]
    answers = fleet.answers(shown(0, *WHEN, fleet.places, fleet.places if stays else (1, 3)), (1, 3))
    shares = {by: (one.seeds if stays else one.slots)[2] for by, one in answers.items()}
    secret = sharing.Rebuilding(epoch.terms.threshold).secret(shares, fleet.places, lambda _: True)
    if stays:
        rest = sent.copy()
        member.self_mask(rest, epoch, 0, 2, secret, -1)
        return sent, rest
    own = keys.slot_key(secret, bytes.fromhex(epoch.hello(2).nonce), 0)
    masks = np.zeros_like(sent)
    for other in (1, 3):
        member.pair_mask(masks, epoch, 0, (2, other), own, REQUEST)
    return sent, sent - masks


def _uniform(vector: np.ndarray) -> float:
    """Return the p-value of the bytes of ``vector`` being uniform."""
    counts = np.bincount(np.frombuffer(vector.tobytes(), dtype=np.uint8), minlength=256)
    return float(stats.chisquare(counts).pvalue)


def test_a_site_that_is_told_of_others_than_its_peers_are_is_not_opened_alone() -> None:
    """An active server shows one of seven sites P = itself and two sites that it lets fall out for all others, whose keys it then
    gets. Four of the others sign, all open: nothing but those two keys would hide the one."""
    fleet = Fleet.of(7, terms(signed=True, slots=1, min_sites=3))
    given = vectors(fleet.places)
    for place in fleet.places[1:]:
        fleet.members[place].mask(0, fleet.places, REQUEST, WHEN, given[place])
    with _declined("terms"):
        fleet.members[1].mask(0, (1, 6, 7), REQUEST, WHEN, given[1])


def test_a_server_that_asks_one_site_for_another_update_than_the_rest_gets_no_sum() -> None:
    """The rest train to no effect, from weights through which no gradient comes: the sum of all would be the one site's update."""
    fleet = Fleet.of(4, terms(slots=1))
    given = {place: vectors((1,))[1] if place == 1 else np.zeros(9, dtype=np.uint64) for place in fleet.places}
    sent = {place: fleet.members[place].mask(0, fleet.places, f"{place > 1}", WHEN, given[place].copy()) for place in fleet.places}
    view = replace(shown(0, *WHEN, fleet.places, fleet.places), request="True")
    with _declined("closed"):
        fleet.members[1].unmask(view)
    opened = fleet.opened(sent, view, (2, 3, 4))
    assert not np.array_equal(opened, given[1])
    assert _uniform(opened) > 1e-6


def test_what_is_sealed_a_second_time_with_a_key_shows_nothing_of_the_first() -> None:
    key, context = bytes(32), b"context"
    once, again = keys.seal(key, bytes(64), context), keys.seal(key, b"\1" * 64, context)
    assert keys.unseal(key, again, context) == b"\1" * 64
    between = {a ^ b for a, b in zip(once[-80:-16], again[-80:-16], strict=True)}
    assert between != {1}


@pytest.mark.parametrize("colluding", [0, 1, 2, 3])
def test_a_config_refuses_the_thresholds_that_an_epoch_would(colluding: int) -> None:
    """The schema stands below this room and cannot call it: both say the same of every threshold."""
    sites, least = 7, colluding + 2
    for threshold in range(1, sites + 1):
        fits = True
        try:
            terms(threshold=threshold, colluding=colluding, min_sites=least).solved(sites)
        except TermsError:
            fits = False
        asked = Secure(threshold=threshold, colluding=colluding, min_sites=least)
        with nullcontext() if fits else pytest.raises(ValueError, match="threshold"):
            refuse_unfit(asked, sites, "fedavg", None)
    assert (config_limits.MOST_SITES, 64) == (MOST_SITES, MOST_SLOTS)
