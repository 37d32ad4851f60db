"""The classifier's optimiser: its steps, and the one that it would take next as a function of the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.models import Params


@dataclass(frozen=True)
class LookAhead:
    """theta' of a gradient g, without a graph, and ``slope``: -d theta' / d g, a number for each coordinate."""

    theta: Params
    slope: Params


Ahead = Callable[[Params], LookAhead]
"""Gradient g, keyed like theta -> the step that it leads to."""


EPS = 1e-8
"""What AdamW adds to the root of the second moment."""


def rate(config: Config, t: int) -> float:
    """Return eta at step t (from 0, over all rounds): a linear rise, then ``optim.schedule``."""
    optim, federation = config.optim, config.federation
    eta = optim.lr * min(1.0, (t + 1) / (optim.warmup_steps + 1))
    if optim.schedule == "cosine":
        eta *= 0.5 * (1 + math.cos(math.pi * min(1.0, t / (federation.rounds * federation.local_steps))))
    return eta


class Optimiser:
    """SGD, momentum or AdamW on ``theta``, which it moves in place; it starts anew in each round.

    The steps of torch.optim, to the bit, as few calls on lists: torch's classes need more time than a small step, and importing
    them brings its compiler in.
    """

    def __init__(self, config: Config, theta: Params) -> None:
        self.config, self.theta = config, theta
        self._names, self._parameters = list(theta), list(theta.values())
        self.steps = 0
        self.first: Params = {}
        """By name: AdamW's first moment, or the buffer of momentum; empty before the first step."""
        self.second: Params = {}

    def rate(self, t: int) -> float:
        """Return eta at step t (from 0, over all rounds)."""
        return rate(self.config, t)

    @torch.no_grad()
    def step(self, g: Params, t: int) -> None:
        """theta <- theta - eta g, as the optimiser has it."""
        gradient = [g[name] for name in self._names]
        if self.config.optim.name == "adamw":
            self._step_adamw(gradient, self.rate(t))
        else:
            self._step_sgd(gradient, self.rate(t))
        self.steps += 1

    def _step_sgd(self, d: list[Tensor], eta: float) -> None:
        mu, decay = self._momentum, self.config.optim.weight_decay
        if decay:
            d = list(torch._foreach_add(d, self._parameters, alpha=decay))
        if mu:
            buffers = list(self.first.values())
            if buffers:
                torch._foreach_mul_(buffers, mu)
                torch._foreach_add_(buffers, d, alpha=1)
            else:
                buffers = [one.clone() for one in d]
                self.first = dict(zip(self._names, buffers, strict=True))
            d = list(torch._foreach_add(d, buffers, alpha=mu)) if self._nesterov else buffers
        torch._foreach_add_(self._parameters, d, alpha=-eta)

    def _step_adamw(self, g: list[Tensor], eta: float) -> None:
        beta_1, beta_2 = self.config.optim.betas
        if not self.first:
            self.first = {name: torch.zeros_like(p) for name, p in self.theta.items()}
            self.second = {name: torch.zeros_like(p) for name, p in self.theta.items()}
        first, second, steps = list(self.first.values()), list(self.second.values()), self.steps + 1
        if self.config.optim.weight_decay:
            torch._foreach_mul_(self._parameters, 1 - eta * self.config.optim.weight_decay)
        torch._foreach_lerp_(first, g, 1 - beta_1)
        torch._foreach_mul_(second, beta_2)
        torch._foreach_addcmul_(second, g, g, 1 - beta_2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, (1 - beta_2**steps) ** 0.5)
        torch._foreach_add_(roots, EPS)
        torch._foreach_addcdiv_(self._parameters, first, roots, -eta / (1 - beta_1**steps))

    @torch.no_grad()
    def look_ahead(self, g: Params, t: int) -> LookAhead:
        """Return where :meth:`step` would lead, theta left alone.

        The slope takes AdamW's second moment, that of g included, for constant. With ``method.look_ahead`` eta the step is
        theta - eta g instead.
        """
        eta = self.config.method.look_ahead
        moved, slope = {}, {}
        for name, p in self.theta.items():
            if eta is not None:
                moved[name], slope[name] = p.detach() - eta * g[name], torch.full_like(p, eta)
            elif self.config.optim.name == "adamw":
                moved[name], slope[name] = self._adamw(name, g[name], self.rate(t))
            else:
                moved[name], slope[name] = self._sgd(name, g[name], self.rate(t))
        return LookAhead(moved, slope)

    def _sgd(self, name: str, g: Tensor, eta: float) -> tuple[Tensor, Tensor]:
        mu, p, before = self._momentum, self.theta[name], self.first.get(name)
        d = g + self.config.optim.weight_decay * p
        buffer = d if before is None else mu * before + d
        step, slope = (d + mu * buffer, eta * (1 + mu)) if self._nesterov else (buffer if mu else d, eta)
        return p - eta * step, torch.full_like(p, slope)

    def _adamw(self, name: str, g: Tensor, eta: float) -> tuple[Tensor, Tensor]:
        (beta_1, beta_2), p, steps = self.config.optim.betas, self.theta[name], self.steps + 1
        first = (1 - beta_1) * g + (beta_1 * self.first[name] if self.first else 0)
        second = (1 - beta_2) * g * g + (beta_2 * self.second[name] if self.second else 0)
        scale = eta / (1 - beta_1**steps) / ((second / (1 - beta_2**steps)).sqrt() + EPS)
        return p * (1 - eta * self.config.optim.weight_decay) - scale * first, (1 - beta_1) * scale

    @property
    def _momentum(self) -> float:
        return self.config.optim.momentum if self.config.optim.name == "momentum" else 0.0

    @property
    def _nesterov(self) -> bool:
        return self.config.optim.nesterov and self._momentum > 0
