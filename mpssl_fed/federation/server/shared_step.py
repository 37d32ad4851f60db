"""The step of a run whose noise is shared: taken at the server, on the sum of all sites' noised gradients."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from flwr.app import MessageType
from flwr.serverapp import Grid as FlowerGrid

from mpssl_fed.config import Config
from mpssl_fed.federation import parts
from mpssl_fed.federation import secure_messages as wire
from mpssl_fed.federation.messages import SentConfig, TrainRequest
from mpssl_fed.federation.server.collect import Answers, ask
from mpssl_fed.federation.weights import flat, to_record, unflat
from mpssl_fed.method.optimiser import rate
from mpssl_fed.models import Weights
from mpssl_fed.privacy.plan import plan_for
from mpssl_fed.runs.progress import Progress, RoundSteps
from mpssl_fed.secure.keys import Integers
from mpssl_fed.watch import watched_by

NOTHING = "the sites in the sum weigh nothing together"


@dataclass(frozen=True)
class SharedStep:
    """What the server makes of a sum of ``config``'s run."""

    config: Config

    @cached_property
    def names(self) -> list[str]:
        """The trained entries of the weights, in the order of a vector."""
        return sorted(parts.initial_classifier(self.config).theta())

    def length(self, start: Weights) -> int:
        """Return the length of what a site sends: an integer an entry, and its size or weight."""
        names = self.names if self.config.privacy.shared else start
        return 1 + sum(start[name].numel() for name in names)

    def taken(self, start: Weights, number: int, opened: Integers) -> dict[str, np.ndarray] | str:
        """Return the weights, float64 by name, one step from ``start`` along the mean gradient of the opened sum, with eta of
        round ``number``; in words why not, where there is none.

        The sum is divided by q x the public sizes of its sites, as each site's release would be by its own.
        """
        signed, plan, noise = opened.view(np.int64), plan_for(self.config), wire.noise_of(self.config)
        assert noise is not None
        units = plan.q * int(signed[-1]) * (1 - plan.held_out)
        if units <= 0:
            return NOTHING
        trained = {name: start[name] for name in self.names}
        gradient = signed[:-1].astype(np.float64) * (noise.grid / units)
        moved = unflat(flat(trained) - rate(self.config, number - 1) * gradient, trained)
        return {name: moved[name] if name in moved else value.double().numpy() for name, value in start.items()}


@dataclass
class Summed:
    """What a round brought: the mean update's end, float64 by name, None where the sum was lost and ``why``; who answered."""

    mean: dict[str, np.ndarray] | None
    answers: Answers
    why: str = ""


@dataclass
class Unmasked:
    """Sums of a study of public data: the same integers, added at the server without masks, of as many sites as one likes."""

    grid: FlowerGrid
    config: Config
    sent: SentConfig
    progress: Progress
    stop: threading.Event

    @cached_property
    def step(self) -> SharedStep:
        """What is made of each sum."""
        return SharedStep(self.config)

    def round(self, number: int, start: Weights, nodes: Mapping[int, int], asked: Sequence[int]) -> Summed:
        """Ask the sites ``asked`` for round ``number`` and return the weights that follow."""
        step, content = self.step, TrainRequest(self.sent, number, to_record(start)).to_record()
        length, shown = step.length(start), RoundSteps(self.progress, number, len(asked))
        contents = {site: (nodes[site], content) for site in asked}
        read = shown.after(lambda reply: wire.masked_of(reply, length))
        with watched_by(shown):
            answers = ask(self.grid, contents, MessageType.TRAIN, read, self.config.federation.deadline_s, self.stop)
        least = self.config.federation.secure.min_sites
        if len(answers.good) < least:
            return Summed(None, answers, f"{len(answers.good)} of at least {least} sites answered")
        total = np.zeros(length, dtype=np.uint64)
        for vector in answers.good.values():
            total += vector  # type: ignore[arg-type]
        found = step.taken(start, number, total)
        return Summed(None, answers, found) if isinstance(found, str) else Summed(found, answers)
