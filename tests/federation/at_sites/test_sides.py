"""Which side of the split a unit is on follows from its own id and the site's key; what is trained on never sees the other side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpssl_fed.audit.audited import Audited
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.held_out import held_out
from mpssl_fed.deployment.own_data import ERASED, SPLIT_KEY, split_key, wipe
from mpssl_fed.errors import UserError
from mpssl_fed.federation import parts
from mpssl_fed.federation.sides import parted, sides
from mpssl_fed.method.parts import Parts
from tests.federation.conftest import tiny_config

TIMES = "federation.evaluate_at_sites={times: 1, held_out: 0.3}"
PRIVACY = "privacy={epsilon: 8, delta: 1.0e-4, public_size: 50, sample_rate: 1.0}"
KEY = bytes(range(32))
keys = st.binary(min_size=32, max_size=32)


def pool(n: int = 40) -> Images:
    return parts.dataset(tiny_config()).train.take(range(n))


def named(images: Images, names: list[str]) -> Images:
    return replace(images, subjects=tuple(names[i % len(names)] for i in range(len(images))))


@given(keys, st.permutations(range(40)), st.integers(1, 39), st.floats(0.05, 0.9), st.floats(0.05, 0.9), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_unit_that_comes_or_goes_moves_no_other(
    key: bytes, order: list[int], n: int, share: float, more: float, subjects: bool
) -> None:
    images = named(pool(), [f"p{i}" for i in range(11)]) if subjects else pool()
    whole, some = held_out(images, share, key), held_out(images.take(order[:n]), share, key)
    assert np.array_equal(whole[order[:n]], some)
    if subjects:
        assert all(
            len({out for out, name in zip(whole, images.subjects or (), strict=True) if name == one}) == 1
            for one in images.subjects or ()
        )
    low, high = sorted((share, more))
    assert not (held_out(images, low, key) & ~held_out(images, high, key)).any(), "a larger share lets a unit go"


def test_sides_are_fair_and_unknown_without_the_key() -> None:
    images = parts.dataset(tiny_config()).train.take(range(3000))
    one, other = held_out(images, 0.2, KEY), held_out(images, 0.2, bytes(32))
    assert abs(one.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 3000)
    assert abs((one & other).mean() - 0.04) < 5 * np.sqrt(0.04 * 0.96 / 3000)
    copies = pool(9).take([0, 3, 0, 3, 8, 0])
    out = held_out(copies, 0.5, KEY)
    assert out[0] == out[2] == out[5]
    assert out[1] == out[3]


@given(keys, st.sampled_from(["", PRIVACY]), st.integers(0, 12), st.booleans())
@settings(max_examples=30, deadline=None)
def test_nothing_that_is_trained_on_is_held_out(key: bytes, privacy: str, n: int, subjects: bool) -> None:
    config = tiny_config(TIMES, *filter(None, [privacy]))
    images = named(pool(n), ["a", "b", "c"]) if subjects else pool(n)
    others = named(pool(60), ["a", "b", "c", "d"]) if subjects else pool(60)
    classifier = parts.initial_classifier(tiny_config())
    made = parted(config, Parts(images, classifier, None, False, unlabeled=others), key)
    assert made.held_out is not None
    assert made.owned is images
    assert len(made.labelled) + len(made.held_out) == n

    def ids(some: Images) -> set[Any]:
        return set((some.subjects if subjects else some.contents()) or ())

    assert made.unlabeled is not None
    assert not ids(made.held_out) & (ids(made.labelled) | ids(made.unlabeled))
    assert ids(made.labelled) | ids(made.held_out) == ids(images)
    assert ids(made.unlabeled) == ids(others) - ids(made.held_out)
    if not privacy and n:
        assert len(made.labelled), "a site trains on nothing"


def test_under_privacy_no_number_of_images_decides_anything() -> None:
    """One image is held out or not by its own id, and a site may be left with nothing on either side."""
    for privacy, empty in (((), {True}), ((PRIVACY,), {True, False})):
        config = tiny_config(TIMES, *privacy)
        found = {not len(sides(config, pool(20).take([i]), KEY)[1]) for i in range(20)}
        assert found == empty


def test_the_parts_of_a_site_and_its_audits_have_the_sides_that_its_rounds_have() -> None:
    config = tiny_config(TIMES, "data.labels_per_class=10")
    one, again = parts.simulated(config, 1), parts.simulated(config, 1)
    assert one.held_out is not None
    assert again.held_out is not None
    assert torch.equal(one.held_out.x, again.held_out.x)
    assert torch.equal(one.owned.x, parts.labelled(config, 1).x)
    assert 0 < len(one.held_out) < len(one.owned)
    assert torch.equal(Audited(config, 1).labelled.x, one.labelled.x)
    own = Audited(config, 1, own=one.owned, key=KEY).labelled
    assert torch.equal(own.x, parts.own(config, one.owned, None, KEY).labelled.x)
    bare = parts.simulated(tiny_config("data.labels_per_class=10"), 1)
    assert (bare.held_out, bare.whole) == (None, None)
    with pytest.raises(ValueError, match="key of 0 bytes"):
        parts.own(config, one.owned, None)


def test_a_deployed_sites_key_is_made_once_and_outlives_a_wipe(tmp_path: Path) -> None:
    key = split_key(tmp_path)
    assert len(key) == 32
    assert key != split_key(tmp_path / "other")
    (tmp_path / "rounds").mkdir()
    assert wipe(tmp_path) == ["rounds"]
    assert split_key(tmp_path) == key
    assert SPLIT_KEY not in ERASED
    file = tmp_path / SPLIT_KEY
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(b"short")
    with pytest.raises(UserError, match="backup"):
        split_key(tmp_path)
