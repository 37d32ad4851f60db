"""Whether a data set's lifetime budget admits more releases, though later runs are chosen after seeing earlier answers.

At one Renyi order fixed beforehand, releases may go on while their divergences add up to at most a bound: a filter, valid
under fully adaptive composition (Feldman and Zrnic, arXiv 2008.11193; Rogers et al., arXiv 1605.08294). Several orders are
kept at once, each with its own share of delta, and one under its bound suffices: every outcome then belongs to an order
whose filter holds, and the shares add up to delta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.errors import UserError
from mpssl_fed.privacy.accounting import ROUNDING, conversion, epsilon, merge, rdp, rdp_epsilon, rounding_pays
from mpssl_fed.privacy.shared.history import History, alone, shared_steps

FILTER_ORDERS: tuple[float, ...] = (1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256)
LARGE_FILTER_ORDERS: tuple[float, ...] = tuple(2**k for k in range(8, 18))
"""Orders of a budget so small, below about 0.03 at delta 1e-5, that none of :data:`FILTER_ORDERS` admits anything. No budget has
both: the orders are fixed before a data set's first release, and stay."""

SHARED, EXCLUSIVE = "shared", "exclusive"
"""Terms of a run. Shared: the filter decides on each round. Exclusive: the data set's first run, whose whole plan fits the
budget at its exact price but not the filter's; it alone may ever read this data set, so nothing is adaptive."""


class BudgetExceededError(UserError):
    """The data set's lifetime budget does not admit what is asked."""


class Spending(Protocol):
    """What a ledger says of a data set."""

    @property
    def history(self) -> History:
        """Everything ever reserved, merged."""

    @property
    def unaccounted(self) -> bool:
        """Whether it was ever read outside the accounting."""

    @property
    def terms(self) -> Mapping[str, str]:
        """Run -> the terms it was admitted under."""


@dataclass(frozen=True)
class RenyiFilter:
    """The policy's fixed (max_epsilon, delta) as one bound per order of :attr:`orders`.

    max_epsilon_alone: the same of what is left of shared noise where no other site is honest; None: not limited. shared: whether a
    share of delta is set aside for the rounding of shared noise.
    """

    max_epsilon: float
    delta: float
    max_epsilon_alone: float | None = None
    shared: bool = False

    def told(self) -> dict[str, float]:
        """Return it as a ledger keeps it, beside the run that it admitted."""
        return {key: value for key, value in asdict(self).items() if value not in (None, False)}

    @cached_property
    def orders(self) -> tuple[float, ...]:
        """:data:`FILTER_ORDERS`, or the large ones where all of those are of no use at this budget."""
        useless = (self.max_epsilon <= _added(FILTER_ORDERS, self._shares(FILTER_ORDERS))).all()
        return LARGE_FILTER_ORDERS if useless else FILTER_ORDERS

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """Parts of delta, one an order: half for the order that suits a Gaussian best, the rest split evenly."""
        return self._shares(self.orders)

    def _shares(self, orders: tuple[float, ...]) -> NDArray[np.float64]:
        delta = self.delta * (1 - ROUNDING) if self.shared else self.delta
        whole = np.array([(self.max_epsilon - conversion(order, delta)) / order for order in orders])
        shares = np.full(len(orders), 0.5 / (len(orders) - 1))
        shares[int(np.argmax(whole))] = 0.5
        return shares * delta

    @cached_property
    def _added(self) -> NDArray[np.float64]:
        return _added(self.orders, self.shares)

    @property
    def bounds(self) -> NDArray[np.float64]:
        """Largest Renyi divergence at each order; negative where the order is of no use at this budget."""
        return self.max_epsilon - self._added

    def epsilon(self, history: History) -> float:
        """Return what the filter has spent: the least epsilon at delta it can vouch for. 0 for no history; infinity where shared
        noise is in it and what is set aside does not pay for its rounding."""
        if not merge(history):
            return 0.0
        added = self._aside(history)._added
        return _paid(history, float(np.min(rdp(history, self.orders) + added)), self.delta)

    def _aside(self, history: History) -> RenyiFilter:
        """Return it with a share of delta set aside where ``history`` has shared noise, though its owner trusts no sum any more."""
        return replace(self, shared=True) if shared_steps(history) else self

    @property
    def own(self) -> RenyiFilter:
        """The filter of what is left of shared noise where no other site is honest."""
        return replace(self, max_epsilon=self.max_epsilon_alone or self.max_epsilon, max_epsilon_alone=None)

    def bears_alone(self, plan: History) -> bool:
        """Whether the whole plan of a data set's only run stays below ``max_epsilon_alone`` where no other site is honest."""
        return self.max_epsilon_alone is None or epsilon(alone(plan), self.delta) <= self.max_epsilon_alone

    def would_exceed(self, spent: History, following: History) -> bool:
        """Whether ``spent`` and ``following`` together lie above the bound at every order, or above that of a site that is alone
        honest, or share more noise than the delta that is set aside for its rounding pays for."""
        together = merge(spent, following)
        if not together:
            return False
        if shared_steps(together) and not rounding_pays(together, self.max_epsilon, ROUNDING * self.delta):
            return True
        if self.max_epsilon_alone is not None and self.own.would_exceed(alone(spent), alone(following)):
            return True
        return bool((rdp(together, self.orders) > self._aside(together).bounds).all())


def _paid(history: History, found: float, delta: float) -> float:
    """Return ``found``, or infinity where the share of ``delta`` for the rounding of shared noise does not pay for it there."""
    return found if not shared_steps(history) or rounding_pays(history, found, ROUNDING * delta) else math.inf


def _added(orders: tuple[float, ...], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([conversion(order, share) for order, share in zip(orders, shares, strict=True)])


class Limited(Protocol):
    """What a policy says of spending."""

    @property
    def max_epsilon(self) -> float:
        """Over the data set's life."""

    @property
    def delta(self) -> float:
        """Of it."""

    @property
    def max_epsilon_alone(self) -> float | None:
        """Where no other site is honest."""

    @property
    def trust(self) -> str:
        """``site`` or ``sum``."""


def limit_of(policy: Limited) -> RenyiFilter:
    """Return the filter of a policy; where its owner trusts sums, a share of delta is set aside for the rounding of their noise."""
    return RenyiFilter(policy.max_epsilon, policy.delta, policy.max_epsilon_alone, policy.trust == "sum")


@dataclass(frozen=True)
class AnyFilter:
    """Stands for a filter of which delta alone is known: what it has spent is no less than what any of them has."""

    delta: float

    def epsilon(self, history: History) -> float:
        """Return the least epsilon that a filter can vouch for whose every order has the least share of delta. 0 for no history."""
        if not merge(history):
            return 0.0
        share = self.delta * (1 - ROUNDING) * 0.5 / (len(FILTER_ORDERS) - 1)
        added = np.array([conversion(order, share) for order in FILTER_ORDERS])
        return _paid(history, float(np.min(rdp(history, FILTER_ORDERS) + added)), self.delta)

    @property
    def own(self) -> AnyFilter:
        """Itself."""
        return self


def known_limit(limits: Iterable[Mapping[str, float]], deltas: Iterable[float | None], otherwise: float) -> RenyiFilter | AnyFilter:
    """Return the limit that all runs of a data set put down or, where they differ or are silent, a stand-in at the least delta
    of theirs; ``otherwise`` where none says any."""
    limits = list(limits)
    if limits and limits[0] and all(limit == limits[0] for limit in limits):
        first = limits[0]
        return RenyiFilter(first["max_epsilon"], first["delta"], first.get("max_epsilon_alone"), bool(first.get("shared")))
    known = [*(limit.get("delta") for limit in limits), *deltas]
    return AnyFilter(min((float(delta) for delta in known if delta), default=otherwise))


def lifetime_epsilon(limit: RenyiFilter | AnyFilter, spent: Spending) -> float | None:
    """Return what a data set has spent over its life, at the limit's delta; None where no number covers its reads.

    The one number of ledger, status and report. An exclusive run fixed its whole plan before its first answer, so its exact
    price holds; of shared runs, later ones may follow from earlier answers, and only the filter's number holds.
    """
    if spent.unaccounted:
        return None
    if EXCLUSIVE in spent.terms.values():
        return epsilon(spent.history, limit.delta)
    return limit.epsilon(spent.history)


def lifetime_alone(limit: RenyiFilter | AnyFilter, spent: Spending) -> float | None:
    """Return what is left of :func:`lifetime_epsilon` where no other site in the sums was honest; None where nothing bounds it."""
    if spent.unaccounted:
        return None
    own = alone(spent.history)
    found = epsilon(own, limit.delta) if EXCLUSIVE in spent.terms.values() else limit.own.epsilon(own)
    return found if math.isfinite(found) else None


def rounded_up(value: float | None) -> str:
    """Return an epsilon with three decimals, or ``infinite`` (None, too); a printed one never says less than was spent."""
    if value is None or value == math.inf:
        return "infinite"
    return f"{math.ceil(1000 * value) / 1000:.3f}"


def admit_run(limit: RenyiFilter, run: str, plan: History, end_to_end: bool = True) -> Callable[[Spending], str]:
    """Return the judge that a ledger asks, inside its transaction, before a run's first row: the terms, or BudgetExceededError."""

    def judge(spent: Spending) -> str:
        refuse_taken(spent, run, end_to_end)
        if not limit.would_exceed(spent.history, plan):
            return SHARED
        first = not spent.terms and not merge(spent.history)
        price = epsilon(plan, limit.delta) if first else rdp_epsilon(plan, limit.delta)  # which is quick, and refused either way
        if first and price <= limit.max_epsilon and limit.bears_alone(plan):
            return EXCLUSIVE
        raise BudgetExceededError(
            f"the run's plan (epsilon {price:.3g} alone) after what was spent (epsilon {limit.epsilon(spent.history):.3g}) does "
            f"not fit max_epsilon={limit.max_epsilon:g} at delta={limit.delta:g}; plan fewer rounds or a smaller epsilon"
        )

    return judge


def admit_round(limit: RenyiFilter, run: str, following: History, end_to_end: bool = True) -> Callable[[Spending], None]:
    """Return the judge of one round's releases; the ledger itself keeps a run within its plan."""

    def judge(spent: Spending) -> None:
        refuse_taken(spent, run, end_to_end)
        if spent.terms.get(run) != EXCLUSIVE and limit.would_exceed(spent.history, following):
            raise BudgetExceededError(
                f"epsilon {limit.epsilon(spent.history):.3g} of max_epsilon={limit.max_epsilon:g} at delta={limit.delta:g} is "
                "spent and this round does not fit any more"
            )

    return judge


def refuse_taken(spent: Spending, run: str, end_to_end: bool) -> None:
    """BudgetExceededError where no plan of ``run`` can be admitted, whatever it costs."""
    if end_to_end and spent.unaccounted:
        raise BudgetExceededError("the data set was read outside the accounting once: its epsilon is infinite, no budget covers it")
    owner = next((name for name, terms in spent.terms.items() if terms == EXCLUSIVE), run)
    if owner != run:
        raise BudgetExceededError(f"run '{owner}' has taken the data set's whole budget")
