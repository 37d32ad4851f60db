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


class Optimiser:
    """SGD, momentum or AdamW on ``theta``, which it moves in place; it starts anew in each round."""

    def __init__(self, config: Config, theta: Params) -> None:
        self.config, self.theta = config, theta
        optim, parameters = config.optim, list(theta.values())
        self.torch: torch.optim.Optimizer
        if optim.name == "adamw":
            self.torch = torch.optim.AdamW(parameters, lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
        else:
            self.torch = torch.optim.SGD(
                parameters, optim.lr, self._momentum, nesterov=self._nesterov, weight_decay=optim.weight_decay
            )

    def rate(self, t: int) -> float:
        """Return eta at step t (from 0, over all rounds): a linear rise, then ``optim.schedule``."""
        optim, federation = self.config.optim, self.config.federation
        rate = optim.lr * min(1.0, (t + 1) / (optim.warmup_steps + 1))
        if optim.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, t / (federation.rounds * federation.local_steps))))
        return rate

    def step(self, g: Params, t: int) -> None:
        """theta <- theta - eta g, as the optimiser has it."""
        for group in self.torch.param_groups:
            group["lr"] = self.rate(t)
        for name, parameter in self.theta.items():
            parameter.grad = g[name]
        self.torch.step()
        for parameter in self.theta.values():
            parameter.grad = None

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
                moved[name], slope[name] = self._adamw(p, g[name], self.rate(t))
            else:
                moved[name], slope[name] = self._sgd(p, g[name], self.rate(t))
        return LookAhead(moved, slope)

    def _sgd(self, p: Tensor, g: Tensor, eta: float) -> tuple[Tensor, Tensor]:
        mu, before = self._momentum, self.torch.state[p].get("momentum_buffer")
        d = g + self.config.optim.weight_decay * p
        buffer = d if before is None else mu * before + d
        step, slope = (d + mu * buffer, eta * (1 + mu)) if self._nesterov else (buffer if mu else d, eta)
        return p - eta * step, torch.full_like(p, slope)

    def _adamw(self, p: Tensor, g: Tensor, eta: float) -> tuple[Tensor, Tensor]:
        (beta_1, beta_2), eps = self.config.optim.betas, self.torch.param_groups[0]["eps"]
        state = self.torch.state[p]
        steps = int(state["step"]) + 1 if state else 1
        first = (1 - beta_1) * g + (beta_1 * state["exp_avg"] if state else 0)
        second = (1 - beta_2) * g * g + (beta_2 * state["exp_avg_sq"] if state else 0)
        scale = eta / (1 - beta_1**steps) / ((second / (1 - beta_2**steps)).sqrt() + eps)
        return p * (1 - eta * self.config.optim.weight_decay) - scale * first, (1 - beta_1) * scale

    @property
    def _momentum(self) -> float:
        return self.config.optim.momentum if self.config.optim.name == "momentum" else 0.0

    @property
    def _nesterov(self) -> bool:
        return self.config.optim.nesterov and self._momentum > 0
