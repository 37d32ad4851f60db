"""What a site looks ahead along where noise is shared: the last step of the global model, which all have seen.

Its own gradient carries a part of the noise alone, so nothing that is made of it may reach theta' or the latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mpssl_fed.config import Config
from mpssl_fed.federation.site.state import State
from mpssl_fed.method.optimiser import rate
from mpssl_fed.models import Params

ROUND, SEEN, OPENED = "federation.round", "federation.seen.", "federation.opened."


@dataclass(frozen=True)
class LastOpened:
    """gradient: the opened mean gradient of the latest round that moved the weights, keyed like theta, zero before there is one;
    kept: what the site keeps to tell the next one."""

    gradient: Params
    kept: State

    @staticmethod
    def of(config: Config, earlier: Mapping[str, Tensor], theta: Params, number: int) -> LastOpened:
        """Return it as round ``number`` begins at the global ``theta``; earlier: what was kept before.

        Of two global models in a row, (theta before - theta) / eta: the gradient that ``fedavg`` stepped along, what sites added of
        public gradients included, and of another strategy the step that it made of it. A site that missed rounds sees the mean
        of those that were opened, less where some were lost; where all were, the one before.
        """
        start = {name: p.detach().to("cpu", torch.float32, copy=True) for name, p in theta.items()}
        before = {name: earlier[SEEN + name] for name in start if SEEN + name in earlier}
        known = {name: earlier.get(OPENED + name, torch.zeros_like(p)) for name, p in start.items()}
        if before.keys() == start.keys() and any(not torch.equal(before[name], p) for name, p in start.items()):
            eta = sum(rate(config, one - 1) for one in range(int(earlier[ROUND]), number))
            if eta > 0:
                known = {name: (before[name] - p) / eta for name, p in start.items()}
        kept = {SEEN + name: p for name, p in start.items()} | {OPENED + name: g.clone() for name, g in known.items()}
        return LastOpened({name: known[name].to(p) for name, p in theta.items()}, {ROUND: torch.tensor(number), **kept})


def kept_of(state: Mapping[str, Tensor]) -> State:
    """Return what of a site's state is :attr:`LastOpened.kept`."""
    return {name: value for name, value in state.items() if name == ROUND or name.startswith((SEEN, OPENED))}
