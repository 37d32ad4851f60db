"""The one typed schema of a run: YAML plus ``key.path=value`` overrides, every default resolved, unknown keys refused.

This module imports no other part of the house but errors, so that every part may read it.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field, ValidationError, model_validator

from mpssl_fed.config.data import Data, Output, Runtime
from mpssl_fed.config.federation import Federation, Privacy
from mpssl_fed.config.learning import CONTROLS, GeneratorSection, Method, Model, Optim, WarmStart
from mpssl_fed.config.marks import PUBLIC, Marks, server
from mpssl_fed.config.section import Section
from mpssl_fed.errors import UserError, nearest

PROTOCOL_VERSION = 1
"""Raised when the meaning of a message or of a config key changes; a site refuses a config of another version."""


class PlainYaml(yaml.SafeLoader):
    """YAML whose only booleans are true and false, as in version 1.2: ``scope: off`` and a class named ``no`` stay words."""


PlainYaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainYaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


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
        return self

    @model_validator(mode="before")
    @classmethod
    def _controls_set_more_than_a_method(cls, fields: Any) -> Any:
        """Set what the name of a control says of other sections; ValueError where the config says otherwise."""
        if not isinstance(fields, dict) or not isinstance(fields.get("method"), dict):
            return fields
        name = fields["method"].get("name")
        return _with_control(fields, str(name), CONTROLS.get(str(name), {}))

    @model_validator(mode="after")
    def _generator_only_starts_warm(self) -> Config:
        if self.method.name == "generator-only" and self.warm_start.part not in ("head", "both"):
            raise ValueError(
                f"method.name=generator-only asks no site, so the generator must teach the head: set warm_start.part to both or "
                f"head, not {self.warm_start.part}"
            )
        return self

    @property
    def private_rounds(self) -> int:
        """How many rounds ask the sites: none for ``generator-only``, the control that reads no private data."""
        return 0 if self.method.name == "generator-only" else self.federation.rounds

    def dump(self) -> dict[str, Any]:
        """Return the resolved config as plain JSON types, with the names the YAML uses."""
        return self.model_dump(mode="json", by_alias=True)

    def canonical_json(self) -> str:
        """Return sorted JSON without white space, without ``output`` and ``federation.backend``.

        Where a run is written and which engine carries it do not change what is computed.
        """
        fields = self.dump()
        del fields["output"]
        del fields["federation"]["backend"]
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def sha256(self) -> str:
        """Return the SHA-256 of :meth:`canonical_json` as 64 hex digits."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return yaml.safe_dump(self.dump(), sort_keys=False)


def _with_control(fields: dict[str, Any], name: str, sets: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return ``fields`` with what the control ``name`` sets; ``generator-only`` may also warm the head alone."""
    filled = dict(fields)
    for key, value in sets.items():
        given = filled.get(key)
        if isinstance(value, dict):
            if given is None or isinstance(given, dict):
                filled[key] = _with_control(given or {}, name, value, f"{path}{key}.")
        elif key not in filled:
            filled[key] = value
        elif given != value and name != "generator-only":
            raise ValueError(f"method.name={name} means {path}{key}={value}, but {path}{key}={given} is given; remove one of them")
    return filled


def config_folder() -> Path:
    """Return the folder of the configs that ship with the toolkit: in the wheel, or ``configs/`` of a checkout."""
    packaged = Path(__file__).parents[1] / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


def find(path: str | Path) -> Path:
    """Return the file that ``path`` names: as given, else among the shipped configs (``demo``, ``configs/demo.yaml``)."""
    given = Path(path)
    shipped = Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
    for candidate in (given, config_folder() / shipped, config_folder() / f"{shipped}.yaml"):
        if candidate.is_file():
            return candidate
    names = sorted(str(file.relative_to(config_folder()).with_suffix("")) for file in config_folder().rglob("*.yaml"))
    raise UserError(f"config '{path}': no such file.{nearest(str(given.with_suffix('')), names)} Shipped: {', '.join(names)}")


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; UserError that names the file when it is not one."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), PlainYaml)  # a SafeLoader
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, want a mapping of config keys")
    return content


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Return the config of a YAML file with ``key.path=value`` overrides; values are read as YAML. UserError on bad input."""
    file = find(path)
    return from_mapping(override(read_mapping(file), overrides), str(file))


def override(fields: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Return a copy of ``fields`` with each ``a.b.c=value`` set; a missing level is made, a scalar in the way is an error."""
    fields = json.loads(json.dumps(fields, default=str))
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"override '{item}': want key.path=value, for example federation.rounds=3")
        *parents, leaf = key.split(".")
        level = fields
        for parent in parents:
            child = level.get(parent)
            if child is None:
                child = level[parent] = {}
            if not isinstance(child, dict):
                raise UserError(f"override '{item}': '{parent}' is a value, not a section")
            level = child
        try:
            level[leaf] = yaml.load(value, PlainYaml)
        except yaml.YAMLError as error:
            raise UserError(f"override '{item}': the value is not valid YAML: {error}") from error
    return fields


def from_mapping(fields: dict[str, Any], where: str = "config") -> Config:
    """Return the config that a mapping describes; UserError names ``where``, the key, the value and the nearest valid key."""
    try:
        return Config.model_validate(fields)
    except ValidationError as error:
        raise UserError("\n".join(_explain(item, where) for item in error.errors())) from error


def from_json(text: str) -> Config:
    """Return the config of :meth:`Config.canonical_json`."""
    return from_mapping(json.loads(text), "config in the message")


def _explain(item: Any, where: str) -> str:
    path = [str(part) for part in item["loc"]]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        valid = _keys_beside(path)
        return f"{where}: unknown key '{key}'.{nearest(path[-1], valid)} Valid here: {', '.join(valid)}"
    message = item["msg"].removeprefix("Value error, ")
    if not path:
        return f"{where}: {message}"
    return f"{where}: {key}={item['input']!r}: {message}"


def _keys_beside(path: list[str]) -> list[str]:
    """Return the keys that are valid where the last part of ``path`` stands."""
    model: type[Section] = Config
    for part in path[:-1]:
        field = next(f for name, f in model.model_fields.items() if part in (name, f.alias))
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            model = field.annotation
    return [field.alias or name for name, field in model.model_fields.items()]
