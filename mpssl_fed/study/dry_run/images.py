"""How many images go through the generator in a run."""

from __future__ import annotations

import math

from mpssl_fed.config import Config
from mpssl_fed.method import Learner
from mpssl_fed.method.closed_form import ClosedForm
from mpssl_fed.method.meta_optimised import MetaOptimised
from mpssl_fed.method.sources import Random


def generated_images(config: Config, learner: Learner, steps: int) -> int:
    """Return the images that go through the generator in a run: at the sites, for their shared anchor set, and at the server."""
    method, federation, warm = config.method, config.federation, config.warm_start
    own = 0
    if isinstance(learner.source, Random) and steps:
        own = method.bank or math.ceil(steps / method.refresh_every) * method.batch
    if isinstance(learner.source, MetaOptimised) and method.lambda_ > 0 and steps:
        idle = config.lambda_at(0) == 0  # at its first step
        own += (math.ceil(steps / method.lmo_every) - idle) * method.lmo_batch
    own += _probed(config, learner) * method.latent.probes if steps else 0
    anchor = federation.anchor.images if federation.anchor.weight > 0 and steps else 0
    stages = {"none": 0, "body": 1, "head": 1}.get(warm.part, 2)  # auto: at most, since its classes are not read here
    return own * federation.sites + anchor + stages * warm.steps * warm.batch


def _probed(config: Config, learner: Learner) -> int:
    """Return how many generator classes the closed form looks at in a run: all of them in each round, or until the first LMO."""
    method, rounds = config.method, config.private_rounds
    if isinstance(learner.source, MetaOptimised) and method.latent.init == "closed-form":
        first = next(
            (t for t in range(0, rounds * config.federation.local_steps, method.lmo_every) if config.lambda_at(t) > 0), None
        )
        rounds = rounds if first is None else first // config.federation.local_steps + 1
        return rounds * len(learner.source.generator.classes)
    return rounds * len(learner.source.generator.classes) if isinstance(learner.source, ClosedForm) else 0
