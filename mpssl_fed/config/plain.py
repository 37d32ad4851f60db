"""YAML as this toolkit reads and writes it: plain values under text keys, no key twice, nothing that refers to itself.

The booleans are true and false and there are no dates, as in YAML 1.2: ``scope: off``, a class named ``no`` and a folder named
``2024-01-01`` stay words. So does a number in an unusual form (``007``, ``1_000``); a key that wants a number reads it as one.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

import yaml

from mpssl_fed.errors import UserError
from mpssl_fed.files import plain_file

DEEPEST, MOST_VALUES, MOST_BYTES = 50, 100_000, 2**24
"""Levels, values (those behind an anchor counted as often as it is used) and bytes beyond which a file is no config."""

MOST_BITS = 128
LARGEST = 2**MOST_BITS

TAG = "tag:yaml.org,2002:"
WORDS = {"true": True, "false": False}
FORMS = (
    ("bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile("^(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+)$"), "-+0123456789"),
    (
        "float",
        re.compile(r"^(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
        "-+.0123456789",
    ),
    ("null", re.compile("^(?:~|null|Null|NULL|)$"), "~nN\0"),
    ("merge", re.compile("^<<$"), "<"),
)  # fmt: skip
"""What a scalar without quotes may be besides text: kind, pattern, and the characters that it begins with."""


class _Loader(yaml.SafeLoader):
    """Composes the nodes that :class:`_Values` reads."""


class _Dumper(yaml.SafeDumper):
    """Quotes every text that this reader, or one of YAML 1.1, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value again rather than refer to it."""
        return True


_Loader.yaml_implicit_resolvers = {}
for _kind, _form, _starts in FORMS:
    for _class in (_Loader, _Dumper):
        cast(Any, _class).add_implicit_resolver(TAG + _kind, _form, ["" if start == "\0" else start for start in _starts])


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; UserError that names file, line and cure when it is not one, or has a key twice."""
    try:
        with open(plain_file(path), "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UserError(f"{path}: larger than {MOST_BYTES >> 20} MiB, which no config is")
        value = parse(content.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: not text in UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds {type(value).__name__}, want a mapping of config keys")
    return value


def parse(text: str, where: str) -> Any:
    """Return the value that a YAML text describes; UserError that begins with ``where``."""
    try:
        node = yaml.compose(text, _Loader)
        return None if node is None else _Values(where).read(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None and "\n" in text.strip() else ""
        words = " ".join(str(word) for word in (error.context, error.problem) if word)
        raise UserError(f"{where}{line}: not valid YAML: {words}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UserError(f"{where}: nested more than {DEEPEST} levels deep, which no config is") from None


def to_yaml(value: Mapping[str, Any]) -> str:
    """Return plain values as YAML that :func:`read_mapping` reads as the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


class _Values:
    """Reads composed nodes as plain values."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.open: list[yaml.Node] = []
        self.left = MOST_VALUES

    def read(self, node: yaml.Node) -> Any:
        """Return the value of ``node``."""
        self.left -= 1
        if self.left < 0:
            raise self._error(node, f"more than {MOST_VALUES:,} values, those behind an anchor counted as often as it is used")
        if any(node is outer for outer in self.open):
            raise self._error(node, "an anchor that holds itself; write the value out")
        if len(self.open) >= DEEPEST:
            raise self._error(node, f"nested more than {DEEPEST} levels deep, which no config is")
        self.open.append(node)
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node)
            if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
                return [self.read(item) for item in node.value]
            if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
                return self._mapping(node)
        finally:
            self.open.pop()
        raise self._error(node, f"the tag '{node.tag}' is not read here; leave it out")

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise self._error(name, "a key must be a word, not a list or a mapping")
            key, line = str(name.value), name.start_mark.line + 1
            if key in lines:
                raise self._error(name, f"key '{key}' is given a second time (first on line {lines[key]}); remove one of them")
            lines[key] = line
            if name.tag == TAG + "merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    merged = self._merged(source) | merged  # the first of several wins, as YAML says
            else:
                own[key] = self.read(value)
        return merged | own

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, "'<<' wants a mapping, or a list of mappings")
        found: dict[str, Any] = self.read(node)
        return found

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = str(node.value), node.tag.removeprefix(TAG)
        try:
            if kind in ("str", "merge"):
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return WORDS[text.lower()]
            if kind == "int":
                return int(text, 0)
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (KeyError, ValueError) as error:  # an explicit tag on another text, or more digits than Python reads
            raise self._error(node, f"'{text[:40]}' is no {kind}") from error
        raise self._error(node, f"the tag '{node.tag}' is not read here; leave it out")

    def _error(self, node: yaml.Node, what: str) -> UserError:
        line = node.start_mark.line + 1
        return UserError(f"{self.where}{f', line {line}' if line > 1 or len(self.open) > 1 else ''}: {what}")


def plain(value: Any, where: str, key: str = "") -> Any:
    """Return a copy of ``value`` in JSON types: mappings, lists, text, finite numbers, true, false and null; paths become text.

    UserError, beginning with ``where``, names the key of anything else, of text with a NUL and of nesting without end.
    """
    if key.count(".") > DEEPEST:
        raise UserError(f"{where}: {key[:60]}...: nested more than {DEEPEST} levels deep, which no config is")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        if abs(int(value)) >= LARGEST:
            raise UserError(f"{where}: {key}: a whole number of more than {MOST_BITS} bits is larger than any key takes")
        return int(value)
    if isinstance(value, Real):
        if not math.isfinite(value):
            raise UserError(f"{where}: {key}={value}: want a finite number")
        return float(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        if "\0" in value:
            raise UserError(f"{where}: {key}={value[:80]!r}: holds a NUL, which no name can")
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item, where, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, where, f"{key}.{number}" if key else str(number)) for number, item in enumerate(value)]
    raise UserError(f"{where}: {key}: a {type(value).__name__} cannot stand in a config")
