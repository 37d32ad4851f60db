"""Which classes of the generator a task class is drawn from: by name, by closed form; and how well a choice hits the named ones.

Rows P(y_F | y) are [K, K_F] float64 on the CPU and sum to 1; K classes of the task, K_F of the generator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mpssl_fed.errors import UserError, nearest

ANY = "*"


def stratified(weights: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Return n class numbers, ascending: class k stands there floor or ceil of n w_k / sum w times, n w_k / sum w on average.

    weights [K] of 0 or more. Systematic sampling: one uniform number from ``rng``, whatever n.
    """
    share = weights.double().cumsum(0)
    start = torch.rand((), generator=rng, dtype=torch.float64)
    places = (torch.arange(n, dtype=torch.float64) + start) / n
    return torch.searchsorted(share / share[-1], places, right=True).clamp_max(len(weights) - 1)


def sampled(rows: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """Return a generator class for each task class y [n], drawn from its row."""
    share = rows[y].cumsum(1)
    places = torch.rand(len(y), 1, generator=rng, dtype=torch.float64) * share[:, -1:]
    return torch.searchsorted(share, places, right=True).squeeze(1).clamp_max(rows.shape[1] - 1)


def relevance(generator_classes: Sequence[str], task_classes: Sequence[str], shows: Mapping[str, str]) -> Tensor:
    """Return [K, K_F] bool: whether a generator class shows a task class. ``shows``: generator class -> task class, or ``*``.

    Without ``shows``, equal names do. UserError for a class that either side does not have.
    """
    found = torch.zeros(len(task_classes), len(generator_classes), dtype=torch.bool)
    names = set(task_classes)
    for name, target in (shows or {name: name for name in generator_classes if name in names}).items():
        if name not in generator_classes:
            raise UserError(f"method.relevant: the generator has no class '{name}'.{nearest(name, generator_classes)}")
        if target not in (*task_classes, ANY):
            raise UserError(f"method.relevant: the task has no class '{target}'.{nearest(target, task_classes)}")
        rows = slice(None) if target == ANY else task_classes.index(target)
        found[rows, generator_classes.index(name)] = True
    return found


def oracle_rows(relevant: Tensor) -> Tensor:
    """Return rows that are uniform over a task class's relevant classes; over those of all where it has none.

    UserError where no class is relevant.
    """
    if not relevant.any():
        raise UserError(
            "method.source=oracle: no class of the generator has the name of a task class; write method.relevant "
            "(generator class: task class, or * for any)"
        )
    own = relevant.any(1, keepdim=True)
    return _uniform_over(torch.where(own, relevant, relevant.any(0)))


def anti_oracle_rows(relevant: Tensor) -> Tensor:
    """Return rows that are uniform over the classes that no task class needs. UserError where there is none."""
    useless = ~relevant.any(0)
    if not useless.any():
        raise UserError("method.source=anti-oracle: every class of the generator is relevant, none is left to draw from")
    return _uniform_over(useless.expand_as(relevant))


def closed_form_logits(distances: Tensor) -> Tensor:
    """Return the logits [K, K_F] of the closed form, softmax(-squared distance of mean features), 0 at most in each row."""
    return -(distances - distances.min(1, keepdim=True).values)


def selection_numbers(rows: Tensor, weights: Tensor, relevant: Tensor) -> dict[str, float]:
    """Return what a choice of generator classes hits, the mean over task classes by ``weights`` [K].

    mass: of a row on its own relevant classes, mass_any: on those of any task class (chance: their share of K_F), both left
    out where nothing is relevant; perplexity: exp of a row's entropy, K_F where it is uniform, 1 where it is one class.
    """
    weights = weights.double() / weights.sum()
    entropy = -(rows * rows.clamp_min(1e-300).log()).sum(1)
    found = {"converter_perplexity": math.exp(float(weights @ entropy))}
    if relevant.any():
        found["converter_mass"] = float(weights @ (rows * relevant).sum(1))
        found["converter_mass_any"] = float(weights @ (rows * relevant.any(0)).sum(1))
    return found


def _uniform_over(chosen: Tensor) -> Tensor:
    rows = chosen.double()
    return rows / rows.sum(1, keepdim=True)
