"""What a site trains on and what it holds out for ``federation.evaluate_at_sites``: no unit is on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.held_out import KEY_BYTES, held_out
from mpssl_fed.method.parts import Parts
from mpssl_fed.seeds import seed_of


def split_key(config: Config, site: int) -> bytes:
    """Return the key by which a simulated site holds images out: of the seed tree, so that a run can be done again."""
    return b"".join(seed_of(config.seed, "site", site, "held out", part).to_bytes(8, "big") for part in range(KEY_BYTES // 8))


def sides(config: Config, whole: Images, key: bytes) -> tuple[Images, Images]:
    """Return what of a site's labelled images is trained on and what is held out, each in the site's order.

    Outside differential privacy a site where one side would be empty holds out nothing; under it no number of images may decide
    anything, so both sides are taken as they fall. ValueError without a key where something is to be held out.
    """
    share = config.federation.evaluate_at_sites.share
    if not share:
        return whole, whole.take([])
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key of {len(key)} bytes: want {KEY_BYTES}, the site's own")
    out = held_out(whole, share, key)
    if not config.privacy.on and out.all():
        return whole, whole.take([])
    return whole.take(np.flatnonzero(~out)), whole.take(np.flatnonzero(out))


def parted(config: Config, made: Parts, key: bytes) -> Parts:
    """Return ``made`` with what is held out taken from all that is trained on: from unlabeled images, too, the other images of a
    subject and copies of an image. ``made`` itself where nothing is evaluated at the sites."""
    if not config.federation.evaluate_at_sites.times:
        return made
    train, out = sides(config, made.labelled, key)
    unlabeled = made.unlabeled
    if unlabeled is not None:
        unlabeled = unlabeled.take(np.flatnonzero(~_same_units(unlabeled, out)))
    return replace(made, labelled=train, unlabeled=unlabeled, held_out=out, whole=made.labelled)


def _same_units(images: Images, others: Images) -> NDArray[np.bool_]:
    """Return which of ``images`` [n] belong to a unit of ``others``: to the same subject, or else are the same image."""
    if images.subjects is not None and others.subjects is not None:
        return np.isin(np.asarray(images.subjects, dtype=str), np.asarray(others.subjects, dtype=str))
    known = set(others.contents())
    return np.array([one in known for one in images.contents()], dtype=bool)
