"""The site's policy: from its own disk, the upper bound on what any server can ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from mpssl_fed.config import METHODS, Config, read_mapping
from mpssl_fed.config.section import Section
from mpssl_fed.errors import UserError, nearest

SCOPES = ("off", "labelled-step", "end-to-end")
"""From the loosest to the tightest."""

METRICS = ("loss", "supervised", "unsupervised", "meta", "gap", "generated", "train_s", "generate_s", "serialise_s")

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Code(StrEnum):
    """Why a site declines: all that a server is told. A code carries no value. The last four are the site's own: data without
    subjects, more than the run's plan, a spent budget, a ledger that does not check out."""

    NO_POLICY = "no-policy"
    SCOPE = "scope"
    EPSILON = "epsilon"
    DELTA = "delta"
    SIGMA = "sigma"
    SAMPLE_RATE = "sample-rate"
    CLIP = "clip"
    STEPS = "steps"
    ROUNDS = "rounds"
    MODEL_SIZE = "model-size"
    METHOD = "method"
    GENERATOR = "generator"
    METRIC = "metric"
    NOISE = "noise"
    PATH = "path"
    UNIT = "unit"
    PLAN = "plan"
    BUDGET = "budget"
    LEDGER = "ledger"


class PublicGenerator(Section):
    """A generator the site will run. public: its training data holds nobody's secrets, so a warm start from it costs 0."""

    name: str
    sha256: Sha256 = Field(description="State hash, as `mpssl-fed generate --help` and manifests print it.")
    trained_on: str = Field(min_length=3, description="What it was trained on, in words.")
    public: bool = Field(False, description="Whether that data is public.")


class Policy(Section):
    """What one site permits; every bound is inclusive."""

    dataset: str = Field(min_length=1, max_length=64, description="Name under which the ledger keeps this data.")
    public_size: int = Field(ge=1, description="Round number of units the owner declares.")
    max_epsilon: float = Field(gt=0, description="Over the data set's whole life.")
    delta: float = Field(gt=0, lt=1, description="At most 1 / (10 public_size).")
    unit: Literal["image", "subject"] = "image"
    scope: Literal["off", "labelled-step", "end-to-end"] = "end-to-end"
    min_sigma: float = Field(0.5, gt=0, description="Smallest noise multiplier of any release.")
    max_sample_rate: float = Field(0.2, gt=0, le=1)
    max_clip: float = Field(100.0, gt=0, description="Largest clip bound of any release.")
    max_rounds: int = Field(1000, ge=1)
    max_local_steps: int = Field(1000, ge=1)
    max_parameters: int = Field(30_000_000, ge=1, description="Entries of the classifier.")
    methods: tuple[str, ...] = Field(tuple(name for name in METHODS if name != "ssl-real"), description="Names, or source+loss.")
    generators: tuple[PublicGenerator, ...] = ()
    metrics: tuple[str, ...] = Field((), description="Numbers that may leave beside the weights; each is exact.")

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        for name in methods:
            if name == "ssl-real" or name.split("+")[0] == "real":
                raise ValueError(f"'{name}' reads real unlabeled images; no policy can allow it")
            if name not in METHODS and name.count("+") != 1:
                raise ValueError(f"unknown method '{name}'.{nearest(name, METHODS)} Want a method's name or source+loss")
        return methods

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        for name in metrics:
            if name not in METRICS:
                raise ValueError(f"unknown metric '{name}'.{nearest(name, METRICS)} Known: {', '.join(METRICS)}")
        return metrics

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        if self.delta > 1 / (10 * self.public_size):
            raise ValueError(f"delta={self.delta:g} is above 1/(10 public_size) = {1 / (10 * self.public_size):g}")
        private = {"loss", "supervised", "meta", "gap"} & set(self.metrics)
        if self.scope == "end-to-end" and private:
            raise ValueError(f"metrics: {', '.join(sorted(private))} would be exact numbers about the data under scope end-to-end")
        return self


@dataclass(frozen=True)
class Request:
    """What a server asks of a site, as far as a policy bounds it. None: not known yet, or none."""

    method: str
    source: str
    scope: str
    epsilon: float | None
    delta: float
    unit: str
    sample_rate: float
    clip: float
    rounds: int
    local_steps: int
    noise: str = "secure"
    sigma: float | None = None
    parameters: int | None = None
    generator: str | None = None
    generator_sha256: str | None = None
    metrics: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        config: Config,
        sigma: float | None = None,
        parameters: int | None = None,
        generator_sha256: str | None = None,
        metrics: tuple[str, ...] = (),
    ) -> Request:
        """Return what ``config`` asks. sigma: smallest of the solved plan; parameters: entries of the classifier;
        generator_sha256: state hash of the generator this site would load; metrics: numbers asked for beside the weights."""
        method, privacy = config.method, config.privacy
        generates = method.source not in ("none", "real") or config.warm_start.part != "none" or config.federation.anchor.weight > 0
        return cls(
            method=method.name or f"{method.source}+{method.loss}",
            source=str(method.source),
            scope=str(privacy.scope),
            epsilon=privacy.epsilon if privacy.on else None,
            delta=privacy.delta,
            unit=privacy.unit,
            sample_rate=privacy.sample_rate,
            clip=max(privacy.clip.gradient, privacy.clip.meta, privacy.clip.feature),
            rounds=config.federation.rounds,
            local_steps=config.federation.local_steps,
            noise=privacy.noise,
            sigma=sigma,
            parameters=parameters,
            generator=config.generator.name if generates else None,
            generator_sha256=generator_sha256,
            metrics=metrics,
            paths=outside_references(config),
        )


@dataclass(frozen=True)
class Granted:
    """The tighter of request and policy; what a plan is made of. lifetime_epsilon: the policy's, over all runs.
    generator_public: whether a warm start from the generator may be printed as epsilon 0."""

    dataset: str
    scope: str
    unit: str
    epsilon: float | None
    lifetime_epsilon: float
    delta: float
    public_size: int
    sample_rate: float
    rounds: int
    local_steps: int
    metrics: tuple[str, ...]
    generator_public: bool


@dataclass(frozen=True)
class Refusal:
    """A code for the server, a text for the operator of the site alone."""

    code: Code
    text: str


@dataclass(frozen=True)
class Decision:
    """Granted limits, or the reasons for a refusal, every one of them."""

    granted: Granted | None
    refusals: tuple[Refusal, ...] = ()

    @property
    def codes(self) -> tuple[str, ...]:
        """What may cross the wire."""
        return tuple(refusal.code.value for refusal in self.refusals)


def load_policy(path: str | Path) -> Policy:
    """Return the policy in a YAML file. UserError names the file, the key, its value and the nearest valid key."""
    fields = read_mapping(path)
    try:
        return Policy.model_validate(fields)
    except ValidationError as error:
        raise UserError("\n".join(_explain(path, dict(item)) for item in error.errors())) from error


def decide(policy: Policy | None, request: Request) -> Decision:
    """Hold a request against the policy; without one, everything is refused."""
    if policy is None:
        return Decision(None, (Refusal(Code.NO_POLICY, "this site has no policy file, so it answers nothing"),))
    refusals = tuple(Refusal(code, text) for code, text in _violations(policy, request))
    if refusals:
        return Decision(None, refusals)
    known = next((g for g in policy.generators if g.sha256 == request.generator_sha256), None)
    return Decision(
        Granted(
            dataset=policy.dataset,
            scope=max(policy.scope, request.scope, key=SCOPES.index),
            unit="subject" if "subject" in (policy.unit, request.unit) else "image",
            epsilon=request.epsilon,
            lifetime_epsilon=policy.max_epsilon,
            delta=min(policy.delta, request.delta),
            public_size=policy.public_size,
            sample_rate=min(policy.max_sample_rate, request.sample_rate),
            rounds=min(policy.max_rounds, request.rounds),
            local_steps=min(policy.max_local_steps, request.local_steps),
            metrics=tuple(name for name in request.metrics if name in policy.metrics),
            generator_public=known is not None and known.public,
        )
    )


def _violations(policy: Policy, request: Request) -> list[tuple[Code, str]]:
    found: list[tuple[Code, str]] = []

    def bound(code: Code, what: str, asked: float | None, limit: float, least: bool = False) -> None:
        if asked is None:
            return
        if not math.isfinite(asked) or (asked < limit if least else asked > limit):
            found.append((code, f"{what}={asked:g} is asked for, the policy's {'least' if least else 'most'} is {limit:g}"))

    if SCOPES.index(request.scope) < SCOPES.index(policy.scope):
        found.append((Code.SCOPE, f"privacy.scope={request.scope} is asked for, the policy wants {policy.scope}"))
    if request.scope != "off":
        bound(Code.EPSILON, "privacy.epsilon", request.epsilon, policy.max_epsilon)
        bound(Code.DELTA, "privacy.delta", request.delta, 1 / (10 * policy.public_size))
        bound(Code.SIGMA, "sigma", request.sigma, policy.min_sigma, least=True)
        bound(Code.SAMPLE_RATE, "privacy.sample_rate", request.sample_rate, policy.max_sample_rate)
        bound(Code.CLIP, "privacy.clip", request.clip, policy.max_clip)
        if request.noise != "secure":
            found.append((Code.NOISE, f"privacy.noise={request.noise} is for simulations of public data; set privacy.noise=secure"))
    bound(Code.ROUNDS, "federation.rounds", request.rounds, policy.max_rounds)
    bound(Code.STEPS, "federation.local_steps", request.local_steps, policy.max_local_steps)
    bound(Code.MODEL_SIZE, "classifier entries", request.parameters, policy.max_parameters)
    if request.method not in policy.methods or request.source == "real":
        found.append((Code.METHOD, f"method '{request.method}' is not in the policy's methods: {', '.join(policy.methods)}"))
    if request.generator is not None:
        found.extend(_generator_violation(policy, request))
    found.extend(
        (Code.METRIC, f"metric '{name}' is not in the policy's metrics") for name in request.metrics if name not in policy.metrics
    )
    found.extend((Code.PATH, f"{where}: a path or an import from outside is never followed") for where in request.paths)
    return found


def _generator_violation(policy: Policy, request: Request) -> list[tuple[Code, str]]:
    if request.generator not in {generator.name for generator in policy.generators}:
        return [(Code.GENERATOR, f"generator '{request.generator}' is not in the policy's generators")]
    hashes = {generator.sha256 for generator in policy.generators if generator.name == request.generator}
    if request.generator_sha256 is not None and request.generator_sha256 not in hashes:
        return [(Code.GENERATOR, f"generator '{request.generator}' has SHA-256 {request.generator_sha256}, not the policy's")]
    return []


def outside_references(config: Config) -> tuple[str, ...]:
    """Return the keys of a config from outside that name a file, a folder or an import: a site follows none of them."""
    named = {
        "data.root": config.data.root,
        "generator.path": config.generator.path,
        "generator.foundation": config.generator.foundation,
        "model.pretrained": config.model.pretrained,
        "method.options": config.method.options or None,
        "data.partition.options": config.data.partition.options or None,
        "federation.strategy.options": config.federation.strategy.options or None,
    }
    names = {
        "model.name": config.model.name,
        "generator.name": config.generator.name,
        "method.source": config.method.source,
        "method.loss": config.method.loss,
    }
    odd = [key for key, name in names.items() if any(mark in str(name) for mark in (":", "/", "\\", ".."))]
    return tuple([key for key, value in named.items() if value is not None] + odd)


def _explain(path: str | Path, item: dict[str, object]) -> str:
    parts = [str(part) for part in item["loc"]]  # type: ignore[attr-defined]
    key = ".".join(parts)
    if item["type"] == "extra_forbidden":
        model: type[Section] = PublicGenerator if parts[0] == "generators" and len(parts) > 1 else Policy
        return f"{path}: unknown key '{key}'.{nearest(parts[-1], model.model_fields)} Valid: {', '.join(model.model_fields)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{path}: key '{key}' is missing"
    return f"{path}: {message}" if not key else f"{path}: {key}={item['input']!r}: {message}"
