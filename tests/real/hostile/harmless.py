"""What a reply under differential privacy may be at most, whatever was asked."""

from __future__ import annotations

import math

import numpy as np
import torch

from mpssl_fed.config import Config
from mpssl_fed.deployment import wire
from mpssl_fed.federation import parts
from mpssl_fed.federation.weights import bound
from mpssl_fed.privacy.plan import plan_for
from tests.real.hostile.target import Answer, Target

CHANCE = 6.5
"""Standard deviations of the correlation of noise with an image that no campaign of this size reaches."""


def check(target: Target, config: Config, sent: wire.Arrays, answer: Answer) -> None:
    """Assert that a reply is finite, within the public bound, of the shape asked and says only what the policy lists."""
    assert answer.status == 200
    assert answer.arrays.keys() == sent.keys()
    for key, value in answer.arrays.items():
        assert value.shape == sent[key].shape
        assert value.dtype == np.float32
        most = target.note("largest entry over its bound", float(np.abs(value).max(initial=0)) / bound(key))
        assert most <= 1  # NaN is not
    assert set(answer.metrics) <= {"num-examples", *target.policy.get("metrics", ())}
    assert all(math.isfinite(value) for value in answer.metrics.values())
    assert answer.metrics["num-examples"] == target.policy["public_size"]  # not how many there are
    if config.optim.name == "sgd" and config.federation.local_steps == 1 and config.method.loss == "none" and _plain(config):
        check_release(target, config, sent, answer.arrays)


def _plain(config: Config) -> bool:
    """Whether the reply is the weights less the release, times the step size, and that as precise as can be told."""
    optim, federation = config.optim, config.federation
    held = federation.anchor.weight or federation.strategy.proximal_mu or optim.weight_decay or optim.warmup_steps
    return not held and optim.lr >= 1e-3


def check_release(target: Target, config: Config, sent: wire.Arrays, got: wire.Arrays) -> None:
    """Assert that the one release in a reply is noise of the standard deviation that was charged, beside what the clip lets pass.

    And that it shows no image: the correlation of each row of weights with each of them is that of noise. The attack that once
    got through had 0.96.
    """
    plan = plan_for(config, public_size=int(target.policy["public_size"]), unit="image")
    lr, divisor = config.optim.lr, plan.q * plan.public_size
    trained = parts.initial_classifier(config).theta()
    assert all(np.array_equal(sent[key], got[key]) for key in got.keys() - trained.keys())
    released = {key: (sent[key].astype(np.float64) - got[key]) / lr for key in trained}
    flat = np.concatenate([value.ravel() for value in released.values()])
    noise = plan.sigma_gradient * plan.clip_gradient / divisor
    signal = len(target.images) * plan.clip_gradient / divisor  # were all units drawn, and all alike
    slack = 6 / math.sqrt(2 * len(flat))  # six standard errors
    rounding = max(float(np.spacing(np.abs(value).max(initial=0))) for value in sent.values()) / lr
    rms = float(np.sqrt(np.mean(flat**2)))
    target.note("a release over the noise that was charged", rms / noise)
    assert rms <= noise * (1 + slack) + signal / math.sqrt(len(flat)) + rounding, "more than the clip lets pass"
    assert rms >= noise * (1 - slack) - rounding, "less noise than was charged"
    if config.model.name == "pixels":
        classifier = parts.initial_classifier(config)
        pixels = classifier.features(classifier.theta(), torch.from_numpy(target.images)).numpy()
        rows = released["head.weight"]
        most = (CHANCE + signal / noise) / math.sqrt(rows.shape[1])
        found = float(np.abs(np.corrcoef(rows, pixels)[: len(rows), len(rows) :]).max())
        assert target.note("correlation of a release with an image", found) < most
