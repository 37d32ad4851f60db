"""Losses against values worked out by hand and against other libraries' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mpssl_fed.config.learning import FreeMatch as Settings
from mpssl_fed.config.learning import Method
from mpssl_fed.errors import UserError
from mpssl_fed.method.freematch import FreeMatch, momentum
from mpssl_fed.method.losses import LOSSES, infonce, scr, scr_stopgrad, vicreg
from mpssl_fed.runs.manifest import facts
from tests.method.test_step import config, learner


def test_scr_by_hand() -> None:
    weak, strong = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    assert float(scr(weak, strong)) == pytest.approx((0 + 1 - 1 / math.sqrt(2)) / 2)
    assert float(scr(weak, weak * 7)) == pytest.approx(0, abs=1e-6)


def test_stop_gradient_holds_the_weak_view_alone() -> None:
    weak, strong = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    gradient = torch.autograd.grad(scr_stopgrad(weak, strong), [weak, strong], allow_unused=True)
    assert gradient[0] is None
    assert float(gradient[1].norm()) > 0
    assert torch.equal(scr(weak, strong), scr_stopgrad(weak, strong))


def test_vicreg_by_hand() -> None:
    weak = torch.tensor([[0.0, 0.0], [2.0, 2.0]])  # std sqrt(2 + 1e-4), covariance 2 off the diagonal
    strong = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # collapsed: std 0.01, covariance 0
    invariance = (1 + 0 + 1 + 4) / 4
    variance = (0 + (1 - 0.01)) / 2
    covariance = 0.04 * (2 * 2**2 / 2 + 0) / 2
    assert float(vicreg(weak, strong)) == pytest.approx(invariance + variance + covariance, rel=1e-5)


def test_infonce_by_hand() -> None:
    weak, strong = torch.eye(2), torch.eye(2)
    expected = -math.log(math.exp(5) / (math.exp(5) + 1))  # similarities 1 and 0 at temperature 0.2
    assert float(infonce(weak, strong)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["scr", "scr-stopgrad", "vicreg", "infonce", "freematch"])
def test_every_loss_is_registered_and_stateful_ones_round_trip(name: str) -> None:
    method = Method.model_validate({"source": "random", "loss": name})
    loss = LOSSES[name](method, 3)
    loss.load(loss.state())
    assert loss.reaches_head == (name == "freematch")


def test_an_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown losses 'scrr'.*Did you mean 'scr'"):
        LOSSES["scrr"]


def test_freematch_thresholds_by_hand() -> None:
    loss = FreeMatch(Settings(ema=0.9), 2)
    q = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    loss.observe_probabilities(q)
    tau = 0.9 * 0.5 + 0.1 * (0.8 + 0.6 + 0.9) / 3
    p = [0.9 * 0.5 + 0.1 * 1.5 / 3, 0.9 * 0.5 + 0.1 * 1.5 / 3]
    assert float(loss.tau) == pytest.approx(tau)
    assert loss.p.tolist() == pytest.approx(p)
    assert loss.histogram.tolist() == pytest.approx([0.9 * 0.5 + 0.1 * 2 / 3, 0.9 * 0.5 + 0.1 / 3])
    loss.observe_probabilities(torch.tensor([[0.7, 0.3]]))
    tau, p = 0.9 * tau + 0.1 * 0.7, [0.9 * p[0] + 0.07, 0.9 * p[1] + 0.03]
    assert loss.thresholds().tolist() == pytest.approx([tau, p[1] / p[0] * tau])


def test_freematch_loss_and_fairness_by_hand() -> None:
    loss = FreeMatch(Settings(fairness=0.5), 2)
    loss.tau, loss.p, loss.histogram = torch.tensor(0.7), torch.tensor([0.6, 0.4]), torch.tensor([0.5, 0.5])
    q = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])  # thresholds .7 and .7 * 2/3: images 0 and 2 pass
    logits = torch.tensor([[2.0, 0.0], [5.0, -5.0], [1.0, 0.0]])
    big_q = logits.softmax(1)
    unsupervised = -(math.log(big_q[0, 0]) + math.log(big_q[2, 1])) / 3
    mean, seen = (big_q[0] + big_q[2]) / 2, torch.tensor([1.0, 0.0])  # both strong views say class 0
    target, found = [0.6, 0.4], [float(mean[0] / seen[0]), 0.0]
    found = [found[0] / sum(found), 0.0]
    fairness = sum(t * math.log(f + 1e-12) for t, f in zip(target, found, strict=True))
    assert float(loss.of(q, logits)) == pytest.approx(unsupervised + 0.5 * fairness, rel=1e-4)


def by_the_paper(
    q: np.ndarray, logits: np.ndarray, tau: float, p: np.ndarray, h: np.ndarray, m: float, w: float
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Return (loss, tau, p~, h~) after one batch, image by image, from equations 5 to 11 of arXiv 2205.07246."""
    n, classes = q.shape
    said = q.argmax(1)
    tau = m * tau + (1 - m) * q.max(1).mean()
    p = m * p + (1 - m) * q.mean(0)
    h = m * h + (1 - m) * np.bincount(said, minlength=classes) / n
    strong = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    passed = [i for i in range(n) if q[i].max() >= p[said[i]] / p.max() * tau]
    loss = sum(-math.log(strong[i, said[i]]) for i in passed) / n
    seen = np.bincount([int(strong[i].argmax()) for i in passed], minlength=classes) / len(passed)
    mean = np.mean([strong[i] for i in passed], axis=0)
    share = np.array([mean[c] / seen[c] if seen[c] else 0.0 for c in range(classes)])  # a class no image is in counts for nothing
    wanted = p / h / (p / h).sum()
    return loss + w * float((wanted * np.log(share / share.sum() + 1e-12)).sum()), tau, p, h


def test_freematch_follows_the_paper_over_many_batches() -> None:
    rng, classes = np.random.default_rng(0), 5
    loss = FreeMatch(Settings(ema=0.8, fairness=0.05), classes)
    tau, p, h = 1 / classes, np.full(classes, 1 / classes), np.full(classes, 1 / classes)
    rates = []
    for step in range(12):
        logits = rng.normal(scale=0.5 + 0.2 * step, size=(2, 16, classes)) + np.linspace(0, 1, classes)  # surer, and skewed
        q = np.exp(logits[0]) / np.exp(logits[0]).sum(1, keepdims=True)
        expected, tau, p, h = by_the_paper(q, logits[1], tau, p, h, 0.8, 0.05)
        weak = torch.from_numpy(q).float()
        loss.observe_probabilities(weak)
        assert float(loss.of(weak, torch.from_numpy(logits[1]).float())) == pytest.approx(expected, rel=1e-4)
        assert float(loss.tau) == pytest.approx(tau, rel=1e-5)
        assert loss.p.tolist() == pytest.approx(p.tolist(), rel=1e-5)
        assert loss.histogram.tolist() == pytest.approx(h.tolist(), rel=1e-5)
        rates.append(float((q.max(1) >= (p / p.max() * tau)[q.argmax(1)]).mean()))
    assert min(rates) < 1  # the thresholds did reject


def test_freematch_with_a_fixed_threshold_is_fixmatch() -> None:
    rng = torch.Generator().manual_seed(0)
    q, logits = torch.randn(64, 5, generator=rng).mul(2).softmax(1), torch.randn(64, 5, generator=rng)
    confidence, label = q.max(1)
    fixmatch = (F.cross_entropy(logits, label, reduction="none") * (confidence >= 0.6)).mean()
    loss = FreeMatch(Settings(fixed_threshold=0.6, fairness=0), 5)
    assert 0 < float((confidence >= 0.6).float().mean()) < 1
    assert float(loss.of(q, logits)) == pytest.approx(float(fixmatch), rel=1e-6)
    adaptive = FreeMatch(Settings(fairness=0), 5)
    assert float(adaptive.of(q, logits)) != pytest.approx(float(fixmatch), rel=1e-3)


def test_no_pseudo_label_passes_and_nothing_breaks() -> None:
    loss = FreeMatch(Settings(fixed_threshold=1.0), 3)
    logits = torch.randn(4, 3, requires_grad=True)
    value = loss.of(torch.full((4, 3), 1 / 3), logits)
    assert float(value.detach()) == 0
    assert torch.equal(torch.autograd.grad(value, logits)[0], torch.zeros(4, 3))


@pytest.mark.parametrize(("steps", "wanted"), [(1, 0.0), (20, 0.0), (300, 1 - 1 / 15), (20_000, 0.999), (10**6, 0.999)])
def test_the_memory_of_freematch_is_a_twentieth_of_the_run(steps: int, wanted: float) -> None:
    assert momentum(None, steps) == pytest.approx(wanted)
    assert momentum(0.97, steps) == 0.97


def test_in_a_run_of_300_steps_the_threshold_gets_to_what_the_classifier_is_sure_of() -> None:
    """With the paper's 0.999 it stays at 0.33 or less where ten classes are told apart with 99 % from the first step on."""
    cfg = config("naive-gssl", federation={"rounds": 3, "local_steps": 100})
    unsupervised = learner(cfg).unsupervised
    assert unsupervised is not None
    assert isinstance(unsupervised.loss, FreeMatch)
    q = F.one_hot(torch.arange(10)) * 0.989 + 0.001
    for _ in range(300):
        unsupervised.loss.observe_probabilities(q)
    assert float(unsupervised.loss.tau) > 0.95
    assert facts(cfg)["freematch_ema"] == pytest.approx(1 - 1 / 15)
    assert "freematch_ema" not in facts(config("mp-ssl"))
