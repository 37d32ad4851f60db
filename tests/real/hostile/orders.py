"""Messages in orders that nobody had in mind: each step is one request, what comes back and whether it was paid for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """code: what it is refused by, "" where it is taken. pays: whether its round is charged. moved: of the weights, against the
    initial ones; as: the place, counted from 0, of the step whose reply this one has to repeat, bit by bit."""

    number: int = 1
    code: str = ""
    pays: bool = True
    moved: float = 0.0
    run: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    same_as: int | None = None


def refused(code: str, number: int = 1, **more: Any) -> Step:
    """Return a step that gets ``code`` and costs nothing."""
    return Step(number, code, False, **more)


THREE = {"federation.rounds": 3}
LATENTS = {
    "model.name": "small-cnn",
    "method.name": "mp-ssl",
    "method.lambda": 1,
    "method.batch": 4,
    "method.lmo_batch": 4,
    "method.lmo_every": 1,
    "method.warmup": 0,
    "privacy.epsilon": 1,
}
LABELS = {"model.name": "small-cnn", "method.name": "p-ssl", "method.lambda": 1, "method.batch": 4}

ORDERS: dict[str, tuple[Mapping[str, Any], tuple[Step, ...]]] = {
    "the last round first": (THREE, (Step(3), refused("round-lost"), refused("round-lost", 2), Step(3, pays=False, same_as=0))),
    "a round left out": (THREE, (Step(1), Step(3, moved=0.1), Step(1, pays=False, same_as=0), Step(2))),
    "the same message again": (THREE, (Step(1), Step(1, pays=False, same_as=0), Step(1, pays=False, same_as=0))),
    "one round again and again": (
        THREE,
        (
            Step(1),
            Step(1, moved=0.1),
            Step(1, moved=-0.1),
            refused("plan", moved=0.2),
            refused("plan", 2),
            Step(1, pays=False, moved=-0.1, same_as=2),
            refused("plan"),  # its reply gave way to that of the other weights
        ),
    ),
    "after the end": ({}, (Step(1), refused("rounds", 2), refused("plan", 2, changes=THREE), refused("plan", changes=THREE))),
    "before the beginning": ({}, (refused("malformed", 0), refused("malformed", -1), Step(1))),
    "two runs by turns": (
        THREE,
        (
            Step(1, run="a"),
            Step(1, run="b"),
            Step(2, run="a", moved=0.1),
            Step(1, pays=False, run="b", same_as=1),
            Step(2, run="b", moved=0.2),
            Step(3, run="a"),
            refused("round-lost", run="a"),
        ),
    ),
    "names that differ by a dot or a letter": (
        {},
        (Step(1, run="a"), Step(1, run="A"), Step(1, run="a."), Step(1, run="a.."), Step(1, run="a_"), Step(1, run="a.0001")),
    ),
    "a larger epsilon in the middle": (THREE, (Step(1), refused("plan", 2, changes={"privacy.epsilon": 2}))),
    "a larger epsilon for what was answered": (THREE, (Step(1), refused("plan", changes={"privacy.epsilon": 2}))),
    "a smaller epsilon in the middle": (THREE, (Step(1), refused("plan", 2, changes={"privacy.epsilon": 0.4}))),
    "another delta in the middle": (THREE, (Step(1), refused("plan", 2, changes={"privacy.delta": 1e-6}))),
    "another rate in the middle": (THREE, (Step(1), refused("plan", 2, changes={"privacy.sample_rate": 0.9}))),
    "other steps in the middle": (THREE, (Step(1), refused("plan", 2, changes={"federation.local_steps": 2}))),
    "another step size in the middle": (THREE, (Step(1), refused("plan", 2, changes={"optim.lr": 0.5}))),
    "another seed in the middle": (THREE, (Step(1), refused("plan", 2, changes={"seed": 1}))),
    "no privacy in the middle": (THREE, (Step(1), refused("scope", 2, changes={"privacy.scope": "off"}))),
    "less privacy in the middle": (THREE, (Step(1), refused("scope", 2, changes={"privacy.scope": "labelled-step"}))),
    "another method in the middle": (LATENTS | THREE, (Step(1), refused("plan", 2, changes={"method.name": "mp-ssl+"}))),
    "another mapper in the middle": (LATENTS | THREE, (Step(1), refused("plan", 2, changes={"method.latent.hidden": 3}))),
    "another buffer in the middle": (LATENTS | THREE, (Step(1), refused("plan", 2, changes={"method.batch": 5}))),
    "a model that the weights are not of": (THREE, (Step(1), refused("misshapen", 2, changes={"model.name": "hog"}))),
    "what nobody reads in the middle": (
        THREE,
        (Step(1), Step(1, pays=False, same_as=0, changes={"federation.deadline_s": 7}), Step(2, changes={"output.dir": "x"})),
    ),
    "latents, again and again": (LATENTS | THREE, (Step(1), Step(1, moved=0.01), Step(2), refused("plan", 3))),
    "pseudo-labels, again": (LABELS | THREE, (Step(1), Step(1, moved=0.01), Step(2))),
    "pseudo-labels from the last round on": (LABELS | THREE, (Step(3), refused("round-lost"), Step(3, moved=0.01))),
    "one after what failed": ({}, (refused("sigma", changes={"privacy.epsilon": 99}), Step(1))),
    "nine runs, then the first": ({}, (*(Step(1, run=f"r{n}") for n in range(9)), refused("round-lost", run="r0"))),
}  # fmt: skip
"""Name -> (config of all its steps, the steps)."""
