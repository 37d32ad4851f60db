"""What a server sees of one site under secure aggregation: its update under masks, read as an update all the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpssl_fed.config import Config
from mpssl_fed.federation.secure_messages import terms_of
from mpssl_fed.federation.weights import flat, unflat
from mpssl_fed.models import Params
from mpssl_fed.secure.member import Member
from mpssl_fed.secure.quantise import Grid
from mpssl_fed.secure.terms import Floor

WEIGHT, WHEN = 1, ("audit", 1)


def as_seen(config: Config, gradient: Params) -> Params:
    """Return the gradient that a server reads out of the masked vector of a site whose one step went down ``gradient``.

    Masked by the parts that a run masks with, among the fewest sites that its terms allow: fewer masks than it has. Integers modulo
    2^64 are read as signed ones over the grid's scale, as an opened sum is; the site's weight, which is masked too, is given away.
    """
    terms = replace(terms_of(config), slots=1, signed=False)
    sites = [Member.new(Ed25519PrivateKey.generate(), terms, Floor()) for _ in range(max(terms.min_sites, terms.threshold))]
    for site in sites:
        site.join([one.hello for one in sites])
    sites.sort(key=lambda site: site.place)
    first, others = sites[0], sites[1:]
    first.receive({other.place: other.dealt[first.place] for other in others})
    assert first.epoch is not None
    grid, step = Grid(first.epoch.terms, len(sites)), -config.optim.lr
    vector, _ = grid.to_integers(step * flat(gradient), WEIGHT)
    masked = first.mask(0, [site.place for site in sites], "audit", WHEN, vector)
    read = masked.view(np.int64)[:-1].astype(np.float64) / (grid.scale * WEIGHT) / step
    return {key: torch.from_numpy(value).to(gradient[key]) for key, value in unflat(read, gradient).items()}
