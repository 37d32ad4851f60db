"""What a site holds out of its own images: each unit's side follows from its own id and a secret key, from nothing else."""

from __future__ import annotations

import hmac

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.data.base import Images

KEY_BYTES = 32


def held_out(images: Images, share: float, key: bytes) -> NDArray[np.bool_]:
    """Return which images [n] are held out: about ``share`` of them, 0 <= share < 1.

    A subject where the images name them, else an image by its content, is held out where the first 64 bits of HMAC-SHA256 of its
    id under ``key``, read as a number in [0, 1), are below ``share``. So a unit that comes or goes moves no other, copies of a file
    and all images of a subject are on one side, and what a larger share holds out contains what a smaller one does. Nobody
    without the key can foretell, or choose an image's content for, a side.
    """
    ids = (
        images.contents() if images.subjects is None else [subject.encode("utf-8", "surrogatepass") for subject in images.subjects]
    )
    below = {one: _place(one, key) < share for one in set(ids)}
    return np.array([below[one] for one in ids], dtype=bool)


def _place(one: bytes, key: bytes) -> float:
    """Return the place of an id in [0, 1)."""
    words = hmac.digest(key, b"held out " + one, "sha256")
    return (int.from_bytes(words[:8], "big") >> 11) / 2**53
