"""The site's policy as its owner writes it: from the site's own disk, the upper bound on what any server can ask for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from mpssl_fed.config import METHODS, read_mapping
from mpssl_fed.config.federation import CLIP_RANGE
from mpssl_fed.config.section import Section
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.privacy.policy_settings import read_settings
from mpssl_fed.reply_metrics import CONFUSION, EXACT, REPLY_METRICS, RETIRED
from mpssl_fed.secure.terms import MOST_SITES

SCOPES = ("off", "labelled-step", "end-to-end")
"""From the loosest to the tightest."""


Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _below(name: str) -> str:
    """Return ``name`` if it names a file below a folder, in its plainest form; ValueError otherwise."""
    path = PurePosixPath(name)
    plain = str(path) == name and path.parts and ".." not in path.parts and not path.is_absolute()
    if not plain or not name.isprintable() or len(name) > 255:
        raise ValueError("want the name of a file below the generator's folder, such as config.json or parts/weights.bin")
    return name


FileName = Annotated[str, AfterValidator(_below)]


class PublicGenerator(Section):
    """A generator the site will run. public: its training data holds nobody's secrets, so a warm start from it costs 0.

    What comes with an installed package is known by its state hash, which takes loading it; other files are compared, byte by byte,
    before anything loads them.
    """

    name: str
    sha256: Sha256 | None = Field(None, description="State hash of what is loaded, as `mpssl-fed doctor` and manifests print it.")
    files: dict[FileName, Sha256] = Field({}, max_length=1000, description="SHA-256 of each file at --generator-path.")
    trained_on: str = Field(min_length=3, description="What it was trained on, in words.")
    public: bool = Field(False, description="Whether that data is public.")

    @model_validator(mode="after")
    def _known_by_something(self) -> PublicGenerator:
        if self.sha256 is None and not self.files:
            raise ValueError(f"generator '{self.name}': give its state hash (sha256) or the SHA-256 of its files")
        return self

    @property
    def identity(self) -> str:
        """What a site that has loaded it knows it by: its state hash or, where the policy does not say that, one of its files."""
        return self.sha256 or self.listing

    @property
    def listing(self) -> str:
        """SHA-256 of the names and sums of its files."""
        return hashlib.sha256(json.dumps(sorted(self.files.items())).encode()).hexdigest()


class SecureAggregation(Section):
    """What a site asks of sums of updates. Its own floor raises the terms of every sum that it takes part in."""

    required: bool = Field(False, description="Whether updates leave under masks alone: a plain run is refused.")
    min_sites: int = Field(3, ge=2, le=MOST_SITES, description="Fewest sites in a sum that is opened.")
    colluding: int = Field(0, ge=0, le=MOST_SITES - 2, description="Sites that may give the server all they hold.")
    peers: tuple[Sha256, ...] = Field(
        (),
        max_length=MOST_SITES,
        description="Fingerprints of all sites, this one's too, as `site identity` prints them; none: anybody.",
    )

    @model_validator(mode="after")
    def _hides_somebody(self) -> SecureAggregation:
        if self.min_sites < self.colluding + 2:
            raise ValueError(
                f"min_sites={self.min_sites} with colluding={self.colluding} hides nobody; want at least {self.colluding + 2}"
            )
        if len(set(self.peers)) != len(self.peers):
            raise ValueError("peers: a fingerprint is listed twice")
        if self.peers and len(self.peers) < self.min_sites:
            raise ValueError(f"peers: {len(self.peers)} listed, and a sum wants min_sites={self.min_sites}; list every site")
        return self


class Policy(Section):
    """What one site permits; every bound is inclusive and finite."""

    dataset: str = Field(min_length=1, max_length=64, description="Name under which the ledger keeps this data.")
    public_size: int = Field(ge=1, le=10**9, description="Round number of units the owner declares.")
    max_epsilon: float = Field(ge=1e-3, le=100, description="Over the data set's whole life.")
    delta: float = Field(ge=1e-14, lt=1, description="At most 1 / (10 public_size).")
    trust: Literal["site", "sum"] = Field(
        "site",
        description="Whose noise has to cover this site: its own, or (sum) also that of the honest sites in a masked sum.",
    )
    max_epsilon_alone: float | None = Field(
        None, ge=1e-3, le=1000, description="With trust: sum, over the data set's life, if no other site were honest."
    )
    unit: Literal["image", "subject"] = "image"
    scope: Literal["off", "labelled-step", "end-to-end"] = "end-to-end"
    min_sigma: float = Field(0.5, ge=0.1, le=100, description="Smallest noise multiplier of any release.")
    max_sample_rate: float = Field(0.2, ge=1e-4, le=1)
    min_clip: float | None = Field(
        None, ge=CLIP_RANGE[0], le=CLIP_RANGE[1], description="Smallest clip bound of any release; see max_clip."
    )
    max_clip: float | None = Field(
        None,
        ge=CLIP_RANGE[0],
        le=CLIP_RANGE[1],
        description="Largest clip bound of any release. Neither of both: the installed defaults alone.",
    )
    max_rounds: int = Field(1000, ge=1, le=100_000)
    max_local_steps: int = Field(1000, ge=1, le=100_000)
    max_steps: int = Field(100_000, ge=1, le=10_000_000, description="rounds x local_steps.")
    max_evaluations: int = Field(
        5, ge=0, le=1000, description="Noised tables of federation.evaluate_at_sites in a run; 0: none, also without noise."
    )
    max_table_classes: int = Field(
        256, ge=2, le=1024, description="Classes K of a task whose model is evaluated at the site: a table has K x K cells."
    )
    max_parameters: int = Field(30_000_000, ge=1, le=500_000_000, description="Entries of the classifier.")
    max_synthetic_mb: int = Field(1024, ge=1, le=65_536, description="Memory for synthetic images that are kept, in MB.")
    methods: tuple[str, ...] = Field(tuple(name for name in METHODS if name != "ssl-real"), description="Names, or source+loss.")
    generators: tuple[PublicGenerator, ...] = ()
    metrics: tuple[str, ...] = Field(
        (), description="Numbers that may leave beside the weights; confusion, under scope off: the exact table of an evaluation."
    )
    secure_aggregation: SecureAggregation = SecureAggregation()
    settings: dict[str, Any] = Field(
        {}, description="Config key -> a value, a list of values or {min, max}: in place of what a site takes by default."
    )

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
        known = (*REPLY_METRICS, CONFUSION)
        for name in metrics:
            if name not in (*known, *RETIRED):
                raise ValueError(f"unknown metric '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
        return tuple(name for name in metrics if name in known)

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        if self.max_epsilon_alone is not None and self.trust != "sum":
            raise ValueError(f"max_epsilon_alone={self.max_epsilon_alone:g} is about shared noise, which trust: site never takes")
        if self.delta > 1 / (10 * self.public_size):
            raise ValueError(f"delta={self.delta:g} is above 1/(10 public_size) = {1 / (10 * self.public_size):g}")
        private = EXACT & set(self.metrics)
        if self.scope == "end-to-end" and private:
            raise ValueError(f"metrics: {', '.join(sorted(private))} would be exact numbers about the data under scope end-to-end")
        if self.min_clip is not None and self.max_clip is not None and self.min_clip > self.max_clip:
            raise ValueError(f"min_clip={self.min_clip:g} is above max_clip={self.max_clip:g}")
        read_settings(self.settings)
        return self


def load_policy(path: str | Path) -> Policy:
    """Return the policy in a YAML file. UserError names the file, the key, its value and the nearest valid key."""
    fields = read_mapping(path)
    try:
        return Policy.model_validate(fields)
    except ValidationError as error:
        raise UserError("\n".join(_explain(path, dict(item)) for item in error.errors())) from error


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
