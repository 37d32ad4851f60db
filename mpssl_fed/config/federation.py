"""Sections that say who trains, how replies are put together and what is private."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from mpssl_fed.config.marks import AT_SERVER, PRICED, RELEASED, WORK, Marks, ignored, server, site
from mpssl_fed.config.section import Section, own_options
from mpssl_fed.config.secure import Secure, refuse_unfit

MOST_SITES = 100_000

ADAPTIVE = {"server_lr": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.001}

STRATEGY_OPTIONS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"proximal_mu": 0.01},
    "fedavgm": {"server_lr": 1.0, "server_momentum": 0.9},
    "fedadam": ADAPTIVE,
    "fedyogi": ADAPTIVE,
    "fedmedian": {},
    "fedtrimmedavg": {"trim": 0.2},
    "krum": {"hostile": 1},
    "multikrum": {"hostile": 1},
}


class Strategy(Section):
    """How the server turns replies into new weights."""

    marks: ClassVar[Marks] = {
        "proximal_mu": server(RELEASED, 0, 10),
        "name server_lr server_momentum beta_1 beta_2 tau hostile trim norm_bound options": ignored(AT_SERVER),
    }

    name: str = Field(
        "fedavg", description="fedavg, fedprox, fedavgm, fedadam, fedyogi, fedmedian, fedtrimmedavg, krum, multikrum, or a plug-in."
    )
    proximal_mu: float | None = Field(None, ge=0, description="fedprox: weight of the proximal term (default 0.01).")
    server_lr: float | None = Field(None, gt=0, description="fedavgm (default 1), fedadam, fedyogi (default 0.01).")
    server_momentum: float | None = Field(None, ge=0, lt=1, description="fedavgm (default 0.9).")
    beta_1: float | None = Field(None, ge=0, lt=1, description="fedadam, fedyogi (default 0.9).")
    beta_2: float | None = Field(None, ge=0, lt=1, description="fedadam, fedyogi (default 0.99).")
    tau: float | None = Field(None, gt=0, description="fedadam, fedyogi: degree of adaptivity (default 0.001).")
    hostile: int | None = Field(None, ge=0, description="krum, multikrum: how many hostile sites to withstand (default 1).")
    trim: float | None = Field(None, ge=0, lt=0.5, description="fedtrimmedavg: share cut at either end (default 0.2).")
    norm_bound: float | None = Field(None, gt=0, description="Any strategy: longest update, in L2; longer ones are scaled down.")
    options: dict[str, Any] = Field({}, description="Options of a plug-in strategy.")

    @model_validator(mode="before")
    @classmethod
    def _only_its_own(cls, fields: Any) -> Any:
        return own_options(fields, "fedavg", STRATEGY_OPTIONS)


class Anchor(Section):
    """Hold the local model to the global model's logits on a fixed synthetic set (against client drift)."""

    marks: ClassVar[Marks] = {
        "weight": server(RELEASED, 0, 100),
        "temperature": server(RELEASED, 0.1, 20),
        "images": server(WORK, 2, 8192),
        "batch": server(WORK, 2, 512),
    }

    weight: float = Field(0.0, ge=0, description="0: no anchor.")
    temperature: float = Field(2.0, gt=0, description="Both logits are divided by it.")
    images: int = Field(512, ge=2, description="Size of the fixed synthetic set.")
    batch: int = Field(48, ge=2, description="Images of it in a step.")


class EvaluateAtSites(Section):
    """Each site holds out some of its own images and tells, as a release, how many of each class the global model names as what."""

    marks: ClassVar[Marks] = {
        "times": server(PRICED, 0, 10, code="evaluations", owner="max_evaluations"),
        "held_out": server("which units they are the site's own key decides", 0.05, 0.5),
    }

    times: int = Field(0, ge=0, description="Evaluations in a run, evenly spaced, the last after its last round; 0: none.")
    held_out: float = Field(0.2, gt=0, lt=1, description="Share of a site's units that it never trains on where times is not 0.")

    @property
    def share(self) -> float:
        """The share of a site's units that is held out: none where nothing is evaluated there."""
        return self.held_out if self.times else 0.0


def evaluation_rounds(times: int, rounds: int) -> tuple[int, ...]:
    """Return after which of ``rounds`` (from 1) the sites evaluate the model, ``times`` of them, evenly spaced."""
    return tuple(-(-rounds * k // times) for k in range(1, times + 1))


class Federation(Section):
    """Sites, rounds and how replies are put together."""

    marks: ClassVar[Marks] = {
        "rounds": server(PRICED, 1, 1000, code="rounds", owner="max_rounds"),
        "local_steps": server(PRICED, 1, 1000, code="steps", owner="max_local_steps"),
        "aggregation": server(
            "secure hides more than plain; a policy may want it",
            words=("plain", "secure"),
            code="secure-wanted",
            owner="secure_aggregation.required",
        ),
        "sites fraction min_sites deadline_s join_deadline_s weighting max_examples eval_every backend workers": ignored(AT_SERVER),
    }

    sites: int = Field(4, ge=1, le=MOST_SITES, description="Sites in a simulation; in flwr run the nodes Flower gives.")
    rounds: int = Field(5, ge=1, description="Rounds.")
    local_steps: int = Field(60, ge=1, description="Steps a site takes in a round.")
    fraction: float = Field(1.0, gt=0, le=1, description="Share of the sites asked in a round (at least min_sites).")
    min_sites: int = Field(1, ge=1, description="Fewest answers for a round to count.")
    deadline_s: float = Field(3600.0, gt=0, description="Seconds to wait for a round's answers.")
    join_deadline_s: float = Field(120.0, gt=0, description="Seconds to wait for enough sites to be online.")
    weighting: Literal["size", "equal"] = Field("size", description="By labelled images (public_size under DP), or equally.")
    max_examples: int = Field(
        1_000_000, ge=1, le=1_000_000_000, description="Largest size that a reply may claim; one with a larger claim is left out."
    )
    aggregation: Literal["plain", "secure"] = Field(
        "plain", description="secure: the server learns the sum of at least secure.min_sites sites' updates, and none of them."
    )
    secure: Secure = Secure()
    strategy: Strategy = Strategy()
    anchor: Anchor = Anchor()
    eval_every: int = Field(1, ge=1, description="Rounds between two evaluations on the server's held-out images.")
    evaluate_at_sites: EvaluateAtSites = EvaluateAtSites()
    backend: Literal["inprocess", "ray", "deployment"] = Field(
        "inprocess", description="Engine of a simulation; `deploy` and `submit` set deployment."
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Processes that the sites of backend inprocess train in; null: one a core on the command line, else one. "
        "One where runtime.threads is more.",
    )

    @model_validator(mode="after")
    def _enough(self) -> Federation:
        if self.min_sites > self.sites:
            raise ValueError(f"min_sites={self.min_sites} is more than sites={self.sites}")
        if self.evaluate_at_sites.times > self.rounds:
            raise ValueError(
                f"evaluate_at_sites.times={self.evaluate_at_sites.times} is more than rounds={self.rounds}; the model is evaluated "
                "after a round, at most once each"
            )
        if self.aggregation == "secure":
            refuse_unfit(self.secure, self.sites, self.strategy.name, self.strategy.norm_bound)
        hostile = self.strategy.hostile
        if hostile is not None and self.sites < 2 * hostile + 3:
            raise ValueError(f"strategy.hostile={hostile} needs at least {2 * hostile + 3} sites, not {self.sites}")
        return self


CLIP_RANGE = (1e-3, 1e3)
"""Least and largest clip bound of any release: in schema, marks, policy and release alike.

Gradients and features of a unit that trains anything have norms of about 1e-2 to 1e2. Within the range a unit's vector, the grid
of its contribution (2^-36 of the bound), the noise (sigma 0.2 to 1e5 times the bound) and the quotient by q x public_size
(1e-9 to 1e9) are all normal float32 numbers, 1e-38 to 3e38, with every digit. Outside it a clip serves nobody but a server that
looks for an edge of the arithmetic.
"""


class Clip(Section):
    """L2 bounds of one unit's contribution to each release; public numbers within :data:`CLIP_RANGE`."""

    marks: ClassVar[Marks] = {"gradient meta feature": site("the bound of what one unit adds", *CLIP_RANGE, code="clip")}

    gradient: float = Field(1.0, ge=CLIP_RANGE[0], le=CLIP_RANGE[1], description="Release (a): supervised gradient.")
    meta: float = Field(1.0, ge=CLIP_RANGE[0], le=CLIP_RANGE[1], description="Release (b): validation gradient.")
    feature: float = Field(1.0, ge=CLIP_RANGE[0], le=CLIP_RANGE[1], description="Release (c): feature mean.")


class Privacy(Section):
    """Differential privacy of every private read; off unless epsilon is set."""

    marks: ClassVar[Marks] = {
        "scope": server("no looser than the policy's", code="scope", owner="scope"),
        "epsilon": server(PRICED, 1e-3, 100, code="epsilon", owner="max_epsilon"),
        "delta": server("no larger than the policy's", 1e-14, 0.1, code="delta", owner="delta"),
        "unit": site("what the ledger counts", code="unit", owner="unit"),
        "public_size": ignored("each site's own, as its policy says: its weight in the average"),
        "sample_rate": server(PRICED, 1e-4, 0.2, code="sample-rate", owner="max_sample_rate"),
        "meta_params per_class_gap": server("clipped and noised alike"),
        "sigma_feature_ratio sigma_confusion_ratio": server(PRICED, 0.1, 100, code="sigma"),
        "count_floor": site("a public bound of release (c)", 0.01, 1),
        "noise": site("fast is for public data", code="noise", fixed=True),
        "trust": server("no more trusting than the policy", code="trust", owner="trust"),
        "class_weights": site("public numbers of the owner's choice"),
        "per_unit": site("how this machine computes"),
        "max_physical_batch": site("this machine's memory", 1, 4096),
    }

    scope: Literal["off", "labelled-step", "end-to-end"] | None = Field(None, description="end-to-end once epsilon is set.")
    epsilon: float | None = Field(None, gt=0, description="Budget of the whole run at a site; null: no privacy.")
    delta: float = Field(1e-5, gt=0, lt=1, description="At most 1 / (10 public_size).")
    unit: Literal["image", "subject"] = Field("image", description="What one neighbour adds or removes.")
    public_size: int | None = Field(None, ge=1, description="Round number of units that the owner declares.")
    sample_rate: float = Field(0.02, gt=0, le=1, description="q: chance of a unit to be in a draw.")
    clip: Clip = Clip()
    meta_params: Literal["norm", "all"] = Field("norm", description="Where release (b) lives.")
    per_class_gap: bool = Field(False, description="Release (c) in one block a class; its noise grows with their number.")
    class_weights: tuple[float, ...] | None = Field(
        None,
        description="Public weight of each task class in the synthetic batch under DP, as the owner declares; null: all alike.",
    )
    sigma_feature_ratio: float = Field(4.0, gt=0, description="Noise multiplier of (c) over that of (a).")
    sigma_confusion_ratio: float = Field(
        10.0, gt=0, description="Noise multiplier of (e), the table of federation.evaluate_at_sites, over that of (a)."
    )
    count_floor: float = Field(0.1, gt=0, le=1, description="Floor of the noisy count, as a share of q x public_size.")
    noise: Literal["secure", "fast"] = Field("secure", description="fast: simulations of public data alone.")
    trust: Literal["site", "sum"] = Field(
        "site", description="Whose noise covers a site: its own, or that of all honest sites in a sum which alone is seen."
    )
    per_unit: Literal["layers", "vmap", "loop"] = Field(
        "layers", description="How gradients of single units are taken; layers: by their formulas, else by vmap."
    )
    max_physical_batch: int = Field(32, ge=1, description="Units in memory at once.")

    @field_validator("class_weights")
    @classmethod
    def _shares(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not (min(weights, default=-1) >= 0 and 0 < sum(weights) < math.inf):
            raise ValueError("want one finite number of 0 or more for each task class, not all of them 0")
        return weights

    @property
    def on(self) -> bool:
        """Whether any release is noised."""
        return self.scope != "off"

    @property
    def shared(self) -> bool:
        """Whether sites share the noise of their gradients."""
        return self.on and self.trust == "sum"

    def idle(self) -> str:
        """Return in words which settings have no effect because the scope is off; empty where none, or where it is on."""
        given = self.model_dump(exclude_defaults=True, exclude={"scope", "per_unit", "max_physical_batch"})
        if self.on or not given:
            return ""
        keys = ", ".join(f"privacy.{key}" for key in given)
        return f"no differential privacy: privacy.scope is off, so {keys} {'have' if len(given) > 1 else 'has'} no effect"

    @model_validator(mode="before")
    @classmethod
    def _scope(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("scope") is None:
            return {**fields, "scope": "off" if fields.get("epsilon") is None else "end-to-end"}
        return fields

    @model_validator(mode="wrap")
    @classmethod
    def _asked_for(cls, fields: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse settings of privacy that leave it off without saying so; what is wrong with one of them is said first."""
        checked = check(fields)
        if isinstance(fields, dict) and fields and fields.get("scope") is None and "epsilon" not in fields:
            raise ValueError(
                f"{', '.join(map(str, fields))} given, but neither privacy.epsilon nor privacy.scope, so nothing would be private: "
                "set privacy.epsilon and privacy.public_size or, if that is meant, privacy.scope=off"
            )
        return checked

    @model_validator(mode="after")
    def _complete(self) -> Privacy:
        if self.scope is None or not self.on:
            return self if self.scope == "off" else self.model_copy(update={"scope": "off"})
        if self.epsilon is None or self.public_size is None:
            missing = [f"privacy.{key}" for key in ("epsilon", "public_size") if getattr(self, key) is None]
            cure = f"; public_size is a round number of {self.unit}s that a site declares" if self.public_size is None else ""
            raise ValueError(f"privacy.scope={self.scope} needs {' and '.join(missing)}{cure}")
        if self.delta > 1 / (10 * self.public_size):
            raise ValueError(
                f"privacy.delta={self.delta:g} is above 1/(10 public_size) = {1 / (10 * self.public_size):g}: such a delta lets a "
                "mechanism publish whole records; lower it"
            )
        return self
