"""FreeMatch (arXiv 2205.07246): pseudo-labels above self-adaptive thresholds, and self-adaptive fairness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mpssl_fed.config.learning import FreeMatch as Settings
from mpssl_fed.config.learning import Method
from mpssl_fed.method.losses import LOSSES
from mpssl_fed.models import Classifier, Params, widened

TINY = 1e-12
PAPER_EMA = 0.999
LOOKS_BACK = 0.05  # share of a run's steps that the running means look back over, where 1,000 steps would be more


def momentum(ema: float | None, steps: int) -> float:
    """Return m of a site's run of ``steps`` steps: ``ema``, or where that is None the paper's 0.999, less in a short run.

    0.999 looks back over 1,000 of the paper's 2^20 steps; in a run of 300 the threshold could not leave its start, 1/K. So the
    running means look back over a twentieth of the steps, at least one, at most 1,000: m = 1 - 1/15 for 300 steps, 0.999 from
    20,000 on.
    """
    return min(PAPER_EMA, 1 - 1 / max(1.0, LOOKS_BACK * steps)) if ema is None else ema


class FreeMatch:
    """L_u + w_f L_f on weak and strong views; q and Q are the class probabilities of the weak and the strong view.

    Thresholds (section 4.1 of the paper), with momentum m: tau <- m tau + (1 - m) mean max q; p~ <- m p~ + (1 - m) mean q;
    tau(c) = p~(c) / max p~ * tau. All start at 1/K as in the paper (USB's later code starts them at 1). L_u is the mean over the
    batch of 1[max q >= tau(argmax q)] H(argmax q, Q). Fairness (section 4.2): h~ is the running histogram of argmax q, p- and h-
    are the mean of Q and the histogram of argmax Q over the images above their threshold; L_f = -H(norm(p~ / h~), norm(p- / h-)).
    m is the paper's 0.999 in a long run, less in a short one (:func:`momentum`). A ``fixed_threshold`` replaces tau(c): with
    ``fairness`` 0 that is FixMatch (arXiv 2001.07685).
    """

    reaches_head = True

    def __init__(self, settings: Settings, classes: int) -> None:
        self.settings, self.classes = settings, classes
        self.momentum = PAPER_EMA if settings.ema is None else settings.ema
        self.additive = settings.fairness == 0
        self.tau = torch.tensor(1 / classes)
        self.p = torch.full((classes,), 1 / classes)
        self.histogram = torch.full((classes,), 1 / classes)

    def __call__(self, classifier: Classifier, theta: Params, weak: Tensor, strong: Tensor) -> Tensor:
        """Return L_u + w_f L_f at theta; pseudo-labels carry no gradient."""
        with classifier.still_statistics():
            with torch.no_grad():
                q = widened(classifier.logits(theta, weak)).softmax(1)  # [n, K]
            logits = widened(classifier.logits(theta, strong))
        return self.of(q, logits)

    def of(self, q: Tensor, logits: Tensor) -> Tensor:
        """Return the loss for weak probabilities q [n, K] and strong logits [n, K]."""
        confidence, label = q.max(1)
        mask = (confidence >= self.thresholds().to(q)[label]).to(q.dtype)  # [n]
        if self.settings.hard:
            cross_entropy = F.cross_entropy(logits, label, reduction="none")
        else:
            target = F.softmax(q.clamp_min(TINY).log() / self.settings.temperature, dim=1)
            cross_entropy = -(target * F.log_softmax(logits, 1)).sum(1)
        loss = (mask * cross_entropy).mean()
        if self.settings.fairness and mask.any():
            loss = loss + self.settings.fairness * self.fairness(logits, mask)
        return loss

    def fairness(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return L_f of strong logits [n, K] over the images of ``mask`` [n] (at least one)."""
        probabilities = logits.softmax(1)
        mean = (probabilities * mask.unsqueeze(1)).sum(0) / mask.sum()  # p-
        seen = (F.one_hot(probabilities.argmax(1), self.classes) * mask.unsqueeze(1)).sum(0) / mask.sum()  # h-
        target = _ratio(self.p.to(mean), self.histogram.to(mean))
        return (target * _ratio(mean, seen).add(TINY).log()).sum()

    def thresholds(self) -> Tensor:
        """Return tau(c) [K]."""
        if self.settings.fixed_threshold is not None:
            return torch.full((self.classes,), self.settings.fixed_threshold)
        return self.p / self.p.max() * self.tau

    @torch.no_grad()
    def observe(self, classifier: Classifier, theta: Params, weak: Tensor) -> None:
        """Move tau, p~ and h~ towards this batch of weak views."""
        with classifier.still_statistics():
            self.observe_probabilities(widened(classifier.logits(theta, weak)).softmax(1))

    def observe_probabilities(self, q: Tensor) -> None:
        """Move tau, p~ and h~ towards weak probabilities q [n, K]."""
        q = q.cpu().float()
        m = self.momentum
        confidence, label = q.max(1)
        self.tau = m * self.tau + (1 - m) * confidence.mean()
        self.p = m * self.p + (1 - m) * q.mean(0)
        self.histogram = m * self.histogram + (1 - m) * F.one_hot(label, self.classes).float().mean(0)

    def state(self) -> dict[str, Tensor]:
        """Return tau, p~ and h~."""
        return {"tau": self.tau.clone(), "p": self.p.clone(), "histogram": self.histogram.clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Set what :meth:`state` returned."""
        self.tau, self.p, self.histogram = state["tau"], state["p"], state["histogram"]


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return numerator / denominator normalised to sum 1; 0 where the denominator is."""
    quotient = torch.where(denominator > 0, numerator / denominator.clamp_min(TINY), torch.zeros_like(numerator))
    return quotient / quotient.sum().clamp_min(TINY)


@LOSSES.add("freematch")
def _freematch(method: Method, classes: int) -> FreeMatch:
    return FreeMatch(method.freematch, classes)
