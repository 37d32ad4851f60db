"""What a run will release about a site's data, fixed before its first read: pure, public data and its price."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any

from mpssl_fed.config import Config
from mpssl_fed.config.federation import evaluation_rounds
from mpssl_fed.errors import UserError
from mpssl_fed.method.reads import reads
from mpssl_fed.privacy import accounting
from mpssl_fed.privacy.accounting import merge
from mpssl_fed.privacy.mechanism import Kind, Mechanism, require_clip
from mpssl_fed.privacy.shared.history import History, Key, Shared, listed, shared_of
from mpssl_fed.privacy.shared.noise import SharedNoise

PSEUDO_LABEL_RATIO = 10.0
"""Noise multiplier of the one pseudo-label release of P-SSL (all units, once) over that of release (a)."""

MOST_POINTS = 50

MOST_ABOVE = 1.002
"""By what factor a solved sigma may lie above the Renyi bound's: it is rounded up to 4 digits, twice at most."""


@dataclass(frozen=True)
class Release:
    """One kind of answer, how often it is given over some rounds, and what the ledger counts it by."""

    mechanism: Mechanism
    steps: int
    key: Key


@dataclass(frozen=True)
class Plan:
    """All releases of a run at one site. Every field is public; nothing in it may come from the data.

    lmo_from: the first step (from 0) whose lambda is above 0, before which nothing is released for latent meta-optimisation.
    sigma_meta (b) and sigma_feature (c) are None where the run has none, sigma_pseudo_label (d) where it has no pseudo-labels,
    sigma_confusion (e) where the site evaluates nothing. evaluations: how often it does; held_out: the share of the units that (e)
    reads and all else does not, 0 without it. A unit is on one side alone, yet both sides are charged to all: what was spent then
    does not hang on where a unit stood. shared: who adds to the noise of (a), None where it is the site's own; sigma_gradient then
    is that of the sum. epsilon is the budget asked for; :meth:`price` is what the plan costs.
    """

    scope: str
    unit: str
    epsilon: float
    delta: float
    public_size: int
    q: float
    rounds: int
    local_steps: int
    lmo_every: int
    clip_gradient: float
    clip_meta: float
    clip_feature: float
    sigma_gradient: float
    sigma_meta: float | None = None
    sigma_feature: float | None = None
    sigma_pseudo_label: float | None = None
    per_class_gap: bool = False
    lmo_from: int = 0
    sigma_confusion: float | None = None
    evaluations: int = 0
    held_out: float = 0.0
    shared: Shared | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a number that no release may have."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("sigma_") and value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field.name}={value}: want a positive, finite number")
            if field.name.startswith("clip_"):
                require_clip(field.name, value)
        if not 0 < self.q <= 1:
            raise ValueError(f"q={self.q}: want 0 < q <= 1")
        if self.public_size < 1:
            raise ValueError(f"public_size={self.public_size}: want 1 or more")
        if not 0 <= self.evaluations <= self.rounds or bool(self.evaluations) != (self.sigma_confusion is not None):
            raise ValueError(f"evaluations={self.evaluations}: want at most one a round, and sigma_confusion where there are any")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out={self.held_out}: want 0 <= held_out < 1")

    def releases(self, first_round: int = 1, last_round: int | None = None) -> list[Release]:
        """Return what is released in some rounds (counted from 1; default all): (a), then what the plan has of the rest."""
        last = self.rounds if last_round is None else last_round
        steps = (last - first_round + 1) * self.local_steps
        lmo = _multiples(self.lmo_every, max(self.lmo_from, (first_round - 1) * self.local_steps), last * self.local_steps)
        often: dict[Kind, int] = {"gradient": steps, "meta": lmo, "feature": lmo, "pseudo-label": int(first_round == 1)}
        often["confusion"] = sum(first_round <= number <= last for number in evaluation_rounds(self.evaluations, self.rounds))
        always = ("gradient", "meta", "feature")
        planned = self.mechanisms().items()
        return [Release(one, often[kind], self.key(one)) for kind, one in planned if kind in always or often[kind]]

    def alone(self) -> Plan:
        """Return the plan as it is where no other site is honest: what shares noise has the site's own part alone."""
        if self.shared is None:
            return self
        honest, _, sites = self.shared
        return replace(self, sigma_gradient=self.sigma_gradient / math.sqrt(honest), shared=Shared(1, sites - 1, sites))

    def sharing(self, one: Mechanism) -> SharedNoise | None:
        """Return how the noise of a release of ``one`` is shared; None where it is not."""
        if self.shared is None or one.kind != "gradient":
            return None
        return SharedNoise(one.sigma, one.sensitivity, self.shared.honest)

    def key(self, one: Mechanism) -> Key:
        """Return what a release of ``one`` is charged by: of shared noise, by what this site adds and who adds to it."""
        if self.shared is None or one.kind != "gradient":
            return one.sigma, one.q
        return one.sigma / math.sqrt(self.shared.honest), one.q, self.shared

    def evaluates(self, number: int) -> bool:
        """Whether the site evaluates the model after round ``number`` (from 1)."""
        return number in evaluation_rounds(self.evaluations, self.rounds)

    def mechanisms(self) -> dict[Kind, Mechanism]:
        """Return the mechanism of each kind that is planned: all that a release needs to be answered, and all that prices it."""
        planned: dict[Kind, tuple[float | None, float, float]] = {
            "gradient": (self.sigma_gradient, self.clip_gradient, self.q),
            "meta": (self.sigma_meta, self.clip_meta, self.q),
            "feature": (self.sigma_feature, self.clip_feature, self.q),
            "pseudo-label": (self.sigma_pseudo_label, 1.0, 1.0),
        }
        size = self.public_size * (1 - self.held_out)
        found = {kind: Mechanism(kind, sigma, clip, q, q * size) for kind, (sigma, clip, q) in planned.items() if sigma is not None}
        if self.sigma_confusion is not None:  # an image adds one count, a subject shares of it that add up to one
            found["confusion"] = Mechanism("confusion", self.sigma_confusion, 1.0, 1.0, 1.0)
        return found

    def history(self) -> dict[Key, int]:
        """Return the whole run as {(sigma, q): n}."""
        return _history(self.releases())

    def round_history(self, number: int, first: bool | None = None) -> dict[Key, int]:
        """Return what round ``number`` (from 1) reserves; ``first``: the site's first one of this run (default: number 1),
        which also takes the pseudo-label release. UserError outside the plan."""
        if not 1 <= number <= self.rounds:
            raise UserError(f"round {number} is outside the plan of {self.rounds} rounds")
        each = [release for release in self.releases(number, number) if release.mechanism.kind in ("gradient", "meta", "feature")]
        if number == 1 if first is None else first:
            each += [release for release in self.releases() if release.mechanism.kind == "pseudo-label"]
        return _history(each)

    def evaluation_history(self, number: int) -> dict[Key, int]:
        """Return what the evaluation after round ``number`` (from 1) reserves. UserError where none is planned there."""
        if not 1 <= number <= self.rounds or not self.evaluates(number):
            raise UserError(f"no evaluation after round {number} is in the plan: {self.evaluations} in {self.rounds} rounds")
        return _history([release for release in self.releases(number, number) if release.mechanism.kind == "confusion"])

    def price(self) -> float:
        """Return the epsilon of the whole plan at delta, under its scope's reading."""
        return accounting.epsilon(self.history(), self.delta)

    def price_alone(self) -> float:
        """Return the epsilon that is left where no other site is honest; :meth:`price` where no noise is shared."""
        return self.alone().price()

    def labelled_step_claim(self) -> float:
        """Return the epsilon that accounting for the supervised gradient alone would report."""
        return accounting.epsilon({self.key(self.mechanisms()["gradient"]): self.rounds * self.local_steps}, self.delta)

    def commitment(self) -> str:
        """Return the SHA-256 of the plan as 64 hex digits; a run's first ledger row carries it."""
        told = asdict(self)
        if not self.evaluations:  # as before there were any: a run that has begun goes on
            for key in ("sigma_confusion", "evaluations", "held_out"):
                del told[key]
        if self.shared is None:
            del told["shared"]
        return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def without_lmo(self) -> Plan:
        """Return the same plan, at the same sigma, without releases (b) and (c)."""
        return replace(self, sigma_meta=None, sigma_feature=None)

    def to_json(self, classes: int | None = None) -> dict[str, Any]:
        """Return all that `privacy plan` prints, as plain JSON types. classes: K of the task, for a gap by class."""
        end = self.price()
        bare = self.without_lmo()
        has_lmo = self.sigma_meta is not None
        return {
            "epsilon": end,
            "history": [one for key, n in self.history().items() for one in listed({key: n})],
            "epsilon_asked": self.epsilon,
            "delta": self.delta,
            "unit": self.unit,
            "scope": self.scope,
            "public_size": self.public_size,
            "sample_rate": self.q,
            "rounds": self.rounds,
            "local_steps": self.local_steps,
            "lmo_every": self.lmo_every if has_lmo else None,
            "sigma": self.sigma_gradient,
            "releases": [self._describe(release, classes) for release in self.releases()],
            "shared": self._what_trust_buys(),
            "epsilon_after_round": self.epsilon_after_rounds(),
            "lmo": {
                "epsilon_without": bare.price() if has_lmo else end,
                "sigma_without": _solve(bare, self.epsilon) if has_lmo else self.sigma_gradient,
            },
            "labelled_step_epsilon": self.labelled_step_claim(),
            "commitment": self.commitment(),
        }

    def epsilon_after_rounds(self) -> list[dict[str, float]]:
        """Return [{round, epsilon}], for each round, or for 50 evenly spaced ones that end with the last."""
        wanted = sorted({math.ceil(self.rounds * k / MOST_POINTS) for k in range(1, MOST_POINTS + 1)})
        prices = accounting.trajectory([_history(self.releases(1, number)) for number in wanted], self.delta)
        return [{"round": number, "epsilon": price} for number, price in zip(wanted, prices, strict=True)]

    def _what_trust_buys(self) -> dict[str, Any] | None:
        """Return the noise of a site, of the sum, and of a site that trusts no other, for the same epsilon; None without trust."""
        if self.shared is None:
            return None
        return self.shared._asdict() | {
            "sigma_of_a_site": self.sigma_gradient / math.sqrt(self.shared.honest),
            "sigma_of_the_sum": self.sigma_gradient,
            "sigma_without_trust": _solve(replace(self, shared=None), self.epsilon),
            "epsilon_alone": alone if math.isfinite(alone := self.price_alone()) else None,
        }

    def _describe(self, release: Release, classes: int | None) -> dict[str, Any]:
        one = release.mechanism
        described: dict[str, Any] = {
            "name": one.kind,
            "sigma": one.sigma,
            "clip": one.sensitivity,
            "q": one.q,
            "steps": release.steps,
        }
        described |= {"noise_std": one.std, "noise_over_clip": one.relative_noise}
        if one.kind == "feature" and self.per_class_gap and classes:
            described["noise_over_clip_of_a_class"] = one.relative_noise * classes  # a class holds about 1/K of the draw
        return described


def plan_for(
    config: Config,
    *,
    epsilon: float | None = None,
    delta: float | None = None,
    public_size: int | None = None,
    unit: str | None = None,
    rough: bool = False,
) -> Plan:
    """Return the plan of ``config`` at a site, sigma solved so that it costs at most epsilon.

    rough: with a sigma that is quick to find and never smaller, so that what this plan exceeds the solved one exceeds, too.

    The keywords are what the site's policy grants; each takes the place of the config's value. Under scope
    ``labelled-step`` epsilon prices the supervised gradient and (e) alone. UserError where the config has no privacy, reads real
    unlabeled images, or delta is above 1/(10 public_size).
    """
    section = config.privacy
    budget, size = epsilon or section.epsilon, public_size or section.public_size
    if not section.on or budget is None or size is None:
        raise UserError("privacy.scope is off: there is no plan. Set privacy.epsilon and privacy.public_size")
    if config.method.source == "real":
        raise UserError("method.source=real reads unlabeled images, which no release covers; choose another method under DP")
    delta = section.delta if delta is None else delta
    if delta > 1 / (10 * size):
        raise UserError(
            f"privacy.delta={delta:g} is above 1/(10 public_size) = {1 / (10 * size):g}: such a delta lets a mechanism publish "
            f"whole records; set privacy.delta to {1 / (10 * size):g} or less"
        )
    asked, covers_all, evaluated = reads(config), section.scope == "end-to-end", config.federation.evaluate_at_sites
    unsolved = Plan(
        scope=str(section.scope),
        unit=unit or section.unit,
        epsilon=budget,
        delta=delta,
        public_size=size,
        q=section.sample_rate,
        rounds=config.federation.rounds,
        local_steps=config.federation.local_steps,
        lmo_every=config.method.lmo_every,
        lmo_from=0 if config.lambda_at(0) > 0 else 1,
        clip_gradient=section.clip.gradient,
        clip_meta=section.clip.meta,
        clip_feature=section.clip.feature,
        sigma_gradient=1.0,
        sigma_meta=1.0 if asked.meta and covers_all else None,
        sigma_feature=section.sigma_feature_ratio if asked.feature and covers_all else None,
        sigma_pseudo_label=PSEUDO_LABEL_RATIO if asked.labels and covers_all else None,
        per_class_gap=section.per_class_gap,
        sigma_confusion=section.sigma_confusion_ratio if evaluated.times else None,
        evaluations=evaluated.times,
        held_out=evaluated.share,
        shared=shared_of(config),
    )
    return _at(unsolved, _solve(unsolved, budget, rough))


def _solve(plan: Plan, epsilon: float, rough: bool = False) -> float:
    """Return sigma of release (a), the others kept in proportion to it; solved once for plans of one price."""
    priced = replace(_at(plan, 1.0), scope="", unit="", epsilon=0.0, public_size=1, per_class_gap=False, held_out=0.0)
    base = replace(priced, clip_gradient=1.0, clip_meta=1.0, clip_feature=1.0)
    return MOST_ABOVE * _bounded(base, epsilon) if rough else _solved(base, epsilon)


@lru_cache(maxsize=256)
def _solved(base: Plan, epsilon: float) -> float:
    return accounting.solve_sigma(lambda sigma: _at(base, sigma).history(), epsilon, base.delta)


@lru_cache(maxsize=256)
def _bounded(base: Plan, epsilon: float) -> float:
    return accounting.sigma_bound(lambda sigma: _at(base, sigma).history(), epsilon, base.delta)


def _at(plan: Plan, sigma: float) -> Plan:
    """Return the plan with sigma_gradient ``sigma`` and every other sigma scaled with it."""
    scale = sigma / plan.sigma_gradient

    def scaled(value: float | None) -> float | None:
        return None if value is None else float(f"{value * scale:.6g}")

    return replace(
        plan,
        sigma_gradient=sigma,
        sigma_meta=scaled(plan.sigma_meta),
        sigma_feature=scaled(plan.sigma_feature),
        sigma_pseudo_label=scaled(plan.sigma_pseudo_label),
        sigma_confusion=scaled(plan.sigma_confusion),
    )


def _multiples(of: int, start: int, stop: int) -> int:
    """Return how many t in [start, stop) have t % of == 0: the steps with a latent meta-optimisation."""
    return -(-stop // of) - -(-start // of)


def _history(releases: Sequence[Release]) -> dict[Key, int]:
    parts: list[History] = [{release.key: release.steps} for release in releases]
    return merge(*parts)
