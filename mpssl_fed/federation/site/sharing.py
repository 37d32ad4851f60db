"""A site's part of a sum whose noise is shared: what it hands to its masks."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from mpssl_fed.config import Config
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.federation.secure_messages import noise_of
from mpssl_fed.method import Learner
from mpssl_fed.models import Classifier, Params
from mpssl_fed.privacy.releases import DPPrivateData
from mpssl_fed.privacy.shared.noise import Integers
from mpssl_fed.privacy.shared.release import shared_gradient
from mpssl_fed.secure import keys
from mpssl_fed.secure.errors import Decline
from mpssl_fed.secure.terms import Terms

log = logging.getLogger("mpssl_fed.site")


@dataclass(frozen=True)
class SharedPart:
    """One site's noised integers [d] of a round, entries in sorted order of names, and its public size: both only to be masked."""

    integers: Integers
    size: int

    def vector(self) -> keys.Integers:
        """Return both as one vector modulo 2^64."""
        return np.append(self.integers, np.int64(self.size)).view(np.uint64)


def require_room(config: Config, classifier: Classifier, size: int) -> None:
    """Refuse what could be charged and then not be sent: ``size`` where the public size is beyond what a site may weigh, ``plan``
    where a site's noise is beyond what integers are made for."""
    if size > config.federation.max_examples:
        log.warning("declined (size): public_size=%d is above federation.max_examples=%d", size, config.federation.max_examples)
        raise Refusal("size")
    noise = noise_of(config)
    assert noise is not None
    try:
        noise.std(sum(value.numel() for value in classifier.theta().values()))
    except ValueError as error:
        log.warning("declined (plan): %s", error)
        raise Refusal("plan") from error


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
