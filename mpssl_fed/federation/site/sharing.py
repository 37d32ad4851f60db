"""A site's part of a sum whose noise is shared: what it hands to its masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpssl_fed.config import Config
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.method import Learner
from mpssl_fed.models import Params
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.privacy.shared.noise import Integers
from mpssl_fed.privacy.shared.release import shared_gradient
from mpssl_fed.secure import keys
from mpssl_fed.secure.errors import Decline
from mpssl_fed.secure.terms import Terms


@dataclass(frozen=True)
class SharedPart:
    """One site's noised integers [d] of a round, entries in sorted order of names, and its public size: both only to be masked."""

    integers: Integers
    size: int

    def vector(self, largest: int) -> keys.Integers:
        """Return both as one vector modulo 2^64; Refusal ``size`` where the public size is beyond ``largest``."""
        if not 1 <= self.size <= largest:
            raise Refusal("size")
        return np.append(self.integers, np.int64(self.size)).view(np.uint64)


def part_of(learner: Learner, number: int, size: int, opened: Params | None = None) -> SharedPart:
    """Return the part of round ``number`` from the weights that the classifier holds; the charge is that of its releases.

    opened: what latent meta-optimisation looks ahead along. Its reads (b) and (c), under all of their noise, come before (a).
    """
    assert isinstance(learner.private, DPPrivateData)
    theta, beside = learner.public_gradient(number, opened)
    return SharedPart(shared_gradient(learner.private, theta, beside), size)


def require_honest(terms: Terms, config: Config) -> None:
    """Decline a sum whose terms do not leave as many honest sites as the plan of ``config`` counts on."""
    if config.privacy.shared and terms.min_sites - terms.colluding < config.federation.secure.honest:
        raise Decline("terms")
