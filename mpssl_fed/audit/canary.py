"""One-run audit of a whole training run: canaries among a site's units, each in with probability 1/2, and who was in.

A canary's vector in each read is a multiple of one coordinate, three clip bounds long. It passes the release's own draw, clip,
noise and denominator beside the real images, through the method's own steps. The attacker sees every answer of the reads:
whatever is sent follows from them, so she sees at least what a server does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mpssl_fed.audit.canaries import Canaries
from mpssl_fed.audit.canary_reads import CanaryExactData, CanaryPrivateData
from mpssl_fed.audit.one_run import epsilon_one_run, gaussian_epsilon, mu_one_run
from mpssl_fed.audit.uncharged import Uncharged
from mpssl_fed.config import Config
from mpssl_fed.config.load import from_mapping, override
from mpssl_fed.method.build import build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.method.private_data import PrivateData
from mpssl_fed.privacy.build import exact_beside, releases
from mpssl_fed.privacy.noise import Noise, noise_source
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.privacy.releases import LabelledStepPrivateData


@dataclass(frozen=True)
class CanaryAudit:
    """What one run gives away. claimed: epsilon of all accounted releases at delta; one_run, lower_bound: epsilons that the
    guesses prove with 95 % confidence, by arXiv 2305.08846 and by the Gaussian form of arXiv 2410.22235; ``reads``: the
    latter from each kind of read alone, where the method makes it."""

    scope: str
    canaries: int
    delta: float
    claimed: float
    one_run: float
    lower_bound: float
    reads: dict[str, float]

    @property
    def passed(self) -> bool:
        """Whether no read contradicts the claim."""
        return max(self.lower_bound, self.one_run, *self.reads.values()) <= self.claimed


def audit_config(config: Config, epsilon: float = 1.0, steps: int = 10) -> Config:
    """Return ``config`` with a run short enough, and a claim small enough, for one run to contradict: q 1, LMO every step,
    and v on all of the body, where canaries have coordinates to themselves."""
    scope = config.privacy.scope if config.privacy.on else "end-to-end"
    delta = config.privacy.delta if config.privacy.on else 1e-5
    size, shared = config.privacy.public_size or int(0.1 / delta), config.privacy.shared  # whose step is a round
    fields = override(
        config.dump(),
        [
            f"privacy.scope={scope}",
            f"privacy.epsilon={epsilon}",
            f"privacy.delta={delta}",
            f"privacy.public_size={size}",
            "privacy.sample_rate=1.0",
            "privacy.meta_params=all",
            "federation.evaluate_at_sites.times=0",
            f"federation.rounds={steps if shared else 1}",
            f"federation.local_steps={1 if shared else steps}",
            "method.lmo_every=1",
        ],
    )
    return from_mapping(fields)


def audit_run(config: Config, parts: Parts, m: int = 20_000, seed: int = 0, noise: Noise | None = None) -> CanaryAudit:
    """Return the audit of one run of ``config`` (see :func:`audit_config`) at a site with these parts and m canaries.

    seed: who is in; draws and noise are those of a real run, so two audits differ a little. The classifier is trained.
    """
    plan, rng = plan_for(config), np.random.default_rng(seed)
    canaries = Canaries.of(m, rng)
    noise = noise or noise_source(config.privacy.noise)
    released = releases(config, parts, plan, Uncharged(plan.history()), noise, partial(CanaryPrivateData, canaries))
    private: PrivateData = released
    if plan.scope == "labelled-step":
        private = LabelledStepPrivateData(released, exact_beside(config, parts, partial(CanaryExactData, canaries, rng)))
    learner = build_learner(config, parts, site=0, private=private)
    for number in range(1, config.federation.rounds + 1):
        learner.train(number)

    def bound(scores: Tensor) -> float:
        return gaussian_epsilon(mu_one_run(scores.numpy(), canaries.included), plan.delta)

    scores = {kind: canaries.evidence(kind) for kind in canaries.seen}
    together = torch.stack(list(scores.values())).sum(0)
    return CanaryAudit(
        plan.scope,
        m,
        plan.delta,
        plan.price_alone(),
        epsilon_one_run(together.numpy(), canaries.included, plan.delta),
        bound(together),
        {kind: bound(found) for kind, found in scores.items()},
    )
