"""The one typed schema of a run: YAML plus ``key.path=value`` overrides, every default resolved, unknown keys refused.

This module imports no other part of the house but errors, so that every part may read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationError, model_validator

from mpssl_fed.config import overrides as given
from mpssl_fed.config.data import Data, Output, Runtime
from mpssl_fed.config.federation import Federation, Privacy
from mpssl_fed.config.keys import UNKNOWN, annotation_of, keys_below, keys_beside
from mpssl_fed.config.learning import BUNDLES, CONTROLS, GeneratorSection, Method, Model, Optim, WarmStart
from mpssl_fed.config.marks import PUBLIC, Marks, server
from mpssl_fed.config.overrides import Given, Override
from mpssl_fed.config.plain import plain, read_mapping, to_yaml
from mpssl_fed.config.section import Section
from mpssl_fed.config.shared import refuse_unshareable
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.files import parse_json

PROTOCOL_VERSION = 1
"""Raised when the meaning of a message or of a config key changes; a site refuses a config of another version."""

OF_A_STUDY = ("grid", "grids", "variants", "extends")
"""Keys that tell a study file from a config."""


class Config(Section):
    """Everything that defines a run. Frozen; build one with :func:`load` or :func:`from_mapping`."""

    marks: ClassVar[Marks] = {"seed": server(PUBLIC, 0, 2**63 - 1)}

    seed: int = Field(0, ge=0, description="Root of the seed tree for everything public.")
    output: Output = Output()
    runtime: Runtime = Runtime()
    data: Data = Data()
    generator: GeneratorSection = GeneratorSection()
    model: Model = Model()
    method: Method = Method.model_validate({"name": "mp-ssl"})
    optim: Optim = Optim()
    warm_start: WarmStart = WarmStart()
    federation: Federation = Federation()
    privacy: Privacy = Privacy()

    @model_validator(mode="after")
    def _privacy_needs_public_inputs(self) -> Config:
        """Under differential privacy nothing that sets the noise or the work may depend on how much data a site has."""
        if not self.privacy.on:
            return self
        if self.optim.batch_size is not None:
            raise ValueError(
                f"optim.batch_size={self.optim.batch_size} is refused under differential privacy: the number of images in a "
                "step is random there. Set privacy.sample_rate and privacy.public_size instead."
            )
        if self.model.norm == "batch":
            raise ValueError(
                "model.norm=batch is refused under differential privacy: its running statistics would be an un-noised release "
                "of private data. Set model.norm=group."
            )
        if self.method.hold_out:
            raise ValueError(
                "method.hold_out=true is refused under differential privacy: all of a site's images train and validate there, "
                "since to part them would double the noise. Set it to null, or take method.name=base."
            )
        closed = self.method.source == "closed-form" or (
            self.method.source == "meta-optimised" and self.method.latent.init == "closed-form"
        )
        if closed:
            raise ValueError(
                "the closed-form converter is refused under differential privacy: no release covers the class means that it reads. "
                "Set method.latent.init=uniform, or another method.source."
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _names_set_more_than_a_method(cls, fields: Any) -> Any:
        """Set what the name of a control or recipe says of other sections; ValueError where the config contradicts a control."""
        if not isinstance(fields, dict) or not isinstance(fields.get("method"), dict):
            return fields
        name = str(fields["method"].get("name"))
        return _with_bundle(fields, name, BUNDLES.get(name, {}))

    @model_validator(mode="after")
    def _generator_only_starts_warm(self) -> Config:
        if self.method.name == "generator-only" and self.warm_start.part not in ("head", "both"):
            raise ValueError(
                f"method.name=generator-only asks no site, so the generator must teach the head: set warm_start.part to both or "
                f"head, not {self.warm_start.part}"
            )
        if self.method.name == "generator-only" and self.federation.evaluate_at_sites.times:
            raise ValueError("method.name=generator-only asks no site: set federation.evaluate_at_sites.times to 0")
        return self

    @model_validator(mode="after")
    def _the_recipe_has_its_parts(self) -> Config:
        """An arm that is called by the recipe's name has both its parts, however they are set."""
        if self.method.name != "federated-gssl":
            return self
        left_out = [
            f"{key}={value}"
            for key, value, without in (
                ("warm_start.part", self.warm_start.part, "none"),
                ("federation.anchor.weight", self.federation.anchor.weight, 0),
            )
            if value == without
        ]
        if left_out:
            raise ValueError(
                f"method.name=federated-gssl is a warm start and an anchor, but {' and '.join(left_out)} is given; "
                "remove it, or set method.name=base"
            )
        return self

    @model_validator(mode="after")
    def _nothing_leaves_in_clear_beside_a_sum(self) -> Config:
        if self.federation.aggregation == "secure" and self.federation.evaluate_at_sites.times and not self.privacy.on:
            raise ValueError(
                "federation.evaluate_at_sites: each site's exact table would leave it in clear, beside weights that no one sees "
                "(federation.aggregation=secure); set its times to 0, or privacy.epsilon, which noises the tables"
            )
        return self

    @model_validator(mode="after")
    def _shared_noise_has_what_it_needs(self) -> Config:
        refuse_unshareable(self.privacy, self.federation, self.optim)
        return self

    @property
    def private_rounds(self) -> int:
        """How many rounds ask the sites: none for ``generator-only``, the control that reads no private data."""
        return 0 if self.method.name == "generator-only" else self.federation.rounds

    @property
    def draws(self) -> bool:
        """Whether anything in the run draws from the generator: its method, its anchor or its warm start."""
        return draws_from_generator(self.method.source, self.federation.anchor.weight, self.warm_start.part)

    def lambda_at(self, t: int) -> float:
        """Return lambda at a site's step t (from 0, over all rounds): a linear rise from 0 over the share ``warmup`` of them."""
        rise = self.method.warmup * self.federation.rounds * self.federation.local_steps
        return self.method.lambda_ * min(1.0, t / rise if rise else 1.0)

    def dump(self) -> dict[str, Any]:
        """Return the resolved config as plain JSON types, with the names the YAML uses."""
        return self.model_dump(mode="json", by_alias=True)

    def canonical_json(self) -> str:
        """Return sorted JSON without white space, without ``output``, ``federation.backend`` and ``workers``.

        Where a run is written and which engine carries it do not change what is computed.
        """
        fields = self.dump()
        del fields["output"]
        del fields["federation"]["backend"], fields["federation"]["workers"]
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def sha256(self) -> str:
        """Return the SHA-256 of :meth:`canonical_json` as 64 hex digits."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return to_yaml(self.dump())


def _with_bundle(fields: dict[str, Any], name: str, sets: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return ``fields`` with what ``name`` sets; a recipe's values may differ, ``generator-only`` may warm the head alone."""
    filled = dict(fields)
    for key, value in sets.items():
        given = filled.get(key)
        if isinstance(value, dict):
            if given is None or isinstance(given, dict):
                filled[key] = _with_bundle(given or {}, name, value, f"{path}{key}.")
        elif key not in filled:
            filled[key] = value
        elif given != value and name in CONTROLS and name != "generator-only":
            raise ValueError(f"method.name={name} means {path}{key}={value}, but {path}{key}={given} is given; remove one of them")
    return filled


def draws_from_generator(source: str | None, anchor: float, warm_start: str = "none") -> bool:
    """Whether a method.source, an anchor's weight or a warm start's part has a use for the generator's images."""
    return source not in ("none", "real") or anchor > 0 or warm_start != "none"


def app_folder() -> Path:
    """Return the folder of the Flower app, ``clients/``, ``server/``, ``configs/`` and a pyproject: packaged, or the checkout."""
    packaged = Path(__file__).parents[1] / "flower_app"
    return packaged if (packaged / "pyproject.toml").is_file() else Path(__file__).parents[2]


def config_folder() -> Path:
    """Return the folder of the configs that ship with the toolkit."""
    return app_folder() / "configs"


def find(path: str | Path) -> Path:
    """Return the file that ``path`` names: as given, else among the shipped configs (``demo``, ``configs/demo.yaml``)."""
    given_path = Path(path)
    shipped = Path(*given_path.parts[1:]) if given_path.parts[:1] == ("configs",) else given_path
    for candidate in (given_path, config_folder() / shipped, config_folder() / f"{shipped}.yaml"):
        if candidate.is_file():
            return candidate
    names = sorted(str(file.relative_to(config_folder()).with_suffix("")) for file in config_folder().rglob("*.yaml"))
    what = "is a folder, want a YAML file" if given_path.is_dir() else "no such file"
    hint = nearest(str(path).removesuffix(".yaml").removesuffix(".yml"), names)
    raise UserError(f"config '{path}': {what}.{hint} Shipped: {', '.join(names)}")


def load(path: str | Path, overrides: Sequence[Given] = ()) -> Config:
    """Return the config of a YAML file with ``key.path=value`` overrides (see :func:`override`). UserError on bad input."""
    file = find(path)
    fields = read_mapping(file)
    found = [key for key in OF_A_STUDY if key in fields]
    if found:
        raise UserError(f"{file}: is a study file (it has '{found[0]}'), not the config of one run: mpssl-fed study {path}")
    if "max_epsilon" in fields:
        raise UserError(f"{file}: is a site's policy, not the config of a run: mpssl-fed policy check {path} CONFIG")
    words = [given.read(item, Config) for item in overrides]
    return from_mapping(given.apply(fields, words, str(file)), str(file), words)


def override(fields: Mapping[str, Any], overrides: Sequence[Given]) -> dict[str, Any]:
    """Return a copy of ``fields`` with each override set, and without what belonged to a name that they replace.

    ``a.b.c=value``: text keys take the value as it stands, others as YAML (:func:`mpssl_fed.config.overrides.read`); an Override
    sets its value as it is. A missing level is made, a scalar in the way is an error.
    """
    return given.apply(fields, [given.read(item, Config) for item in overrides], "config")


def from_mapping(fields: Mapping[str, Any], where: str = "config", overrides: Sequence[Override] = ()) -> Config:
    """Return the config that a mapping describes; UserError names the key, the value and the nearest valid key.

    It begins with ``where``, or with the one of ``overrides`` (already in ``fields``) that the key came from.
    """
    try:
        return Config.model_validate(plain(fields, where))
    except ValidationError as error:
        raise UserError("\n".join(_explain(item, where, overrides) for item in error.errors())) from error


def from_json(text: str) -> Config:
    """Return the config of :meth:`Config.canonical_json`; UserError for any other text."""
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise UserError(f"config in the message: not readable as JSON: {error}") from error
    return from_mapping(fields, "config in the message")


def _explain(item: Any, where: str, overrides: Sequence[Override]) -> str:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path)
    where, is_key = _blame(key, where, overrides)
    if item["type"] == "extra_forbidden":
        if annotation_of(Config, ".".join(path)) is not UNKNOWN and "." in path[-1]:  # the dots of a command line, in YAML
            inner = ": {".join(path[-1].split("."))
            ends = "}" * path[-1].count(".")
            return f"{where}: unknown key '{path[-1]}': below a file's keys others are nested, so write {inner}: ...{ends}"
        return f"{where}: unknown key '{key}'.{_suggest(path)}"
    message = item["msg"].removeprefix("Value error, ")
    if not path or is_key:
        return f"{where}: {message}"
    shown = repr(item["input"])
    return f"{where}: {key}={shown if len(shown) <= 200 else shown[:200] + '...'}: {message}"


def _blame(key: str, where: str, overrides: Sequence[Override]) -> tuple[str, bool]:
    """Return where the value of ``key`` came from, and whether that is an override of this very key."""
    touching = [one for one in overrides if not key or f"{one.key}.".startswith(f"{key}.") or f"{key}.".startswith(f"{one.key}.")]
    above = [one for one in touching if key and f"{key}.".startswith(f"{one.key}.")]
    if above:
        return above[-1].blamed, above[-1].key == key
    return (f"{where} with {', '.join(one.said for one in touching)}" if touching else where), False


def _suggest(path: Sequence[str]) -> str:
    """Return the key that an unknown one was meant to be, as far as can be told, and those that are valid in its place."""
    beside = keys_beside(Config, path)
    everywhere = keys_below(Config)
    same = [key for key in everywhere if key.endswith(f".{path[-1]}")]
    hint = f" Did you mean {' or '.join(repr(key) for key in same[:3])}?" if same else nearest(path[-1], beside)
    if not hint and len(path) == 1:
        leaves = {key.rpartition(".")[2]: key for key in reversed(everywhere)}
        hint = nearest(path[0], leaves, 0.75)
        hint = next((f" Did you mean '{key}'?" for leaf, key in leaves.items() if f"'{leaf}'" in hint), "")
    return f"{hint} Valid here: {', '.join(beside)}" if beside else f"{hint} Nothing may stand below '{'.'.join(path[:-1])}'"
