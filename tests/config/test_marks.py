"""What a server may set is a list: every key of the schema says who decides it, and how far."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from pydantic import TypeAdapter

from mpssl_fed.config import Config
from mpssl_fed.config.leaves import flat, leaves
from mpssl_fed.config.marks import Marks, ignored, server
from mpssl_fed.config.section import Section

LEAVES = {leaf.key: leaf for leaf in leaves(Config)}


def keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    """Walk the schema by its types alone."""
    for name, field in model.model_fields.items():
        kinds = typing.get_args(field.annotation) if isinstance(field.annotation, types.UnionType) else [field.annotation]
        below = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
        key = prefix + (field.alias or name)
        yield from (inner for part in below for inner in keys(part, f"{key}.")) if below else [key]


def test_every_key_is_marked() -> None:
    """Options of plug-ins included. A key that fails here needs a line in the ``marks`` of its section."""
    assert set(LEAVES) == set(keys(Config))
    assert {"method.options", "data.partition.options", "federation.strategy.options", "data.task.stored_size"} <= set(LEAVES)
    assert flat(Config().dump(), Config).keys() == LEAVES.keys()
    assert {leaf.mark.who for leaf in LEAVES.values()} == {"server", "site", "ignored"}


class Unmarked(Section):
    marks: ClassVar[Marks] = {"lr": ignored("x")}
    lr: float = 1.0
    momentum: float = 0.9


class Twice(Section):
    marks: ClassVar[Marks] = {"lr momentum": ignored("x"), "lr": server("x", 0, 1)}
    lr: float = 1.0
    momentum: float = 0.9


class Gone(Section):
    marks: ClassVar[Marks] = {"lr": ignored("x"), "momentum": ignored("x")}
    lr: float = 1.0


@pytest.mark.parametrize(
    ("model", "told"),
    [(Unmarked, "'x.momentum' has no mark"), (Twice, "'lr' is marked twice"), (Gone, "'momentum' is no key of its own")],
)
def test_a_key_without_exactly_one_mark_is_an_error(model: type[Section], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        list(leaves(model, "x."))


def _numbers(annotation: Any) -> bool:
    """Whether values of an annotation are numbers without a finite choice."""
    return any(part in (int, float) or (_is_list(part) and float in typing.get_args(part)) for part in _options(annotation))


def _options(annotation: Any) -> list[Any]:
    return list(typing.get_args(annotation)) if isinstance(annotation, types.UnionType) else [annotation]


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)
def test_a_mark_says_why_and_how_far(leaf: Any) -> None:
    """Whatever a server sets and is not a switch or a named choice has finite ends; both ends are values that the schema takes."""
    mark, field = leaf.mark, leaf.field
    assert mark.why
    assert bool(mark.code) == (mark.who != "ignored")
    if mark.who == "server":
        assert (mark.low is not None) == _numbers(field.annotation)
        choice = typing.get_origin(field.annotation) is typing.Literal or field.annotation in (bool, bool | None)
        assert mark.low is not None or mark.words or choice or mark.owner
    if mark.low is not None:
        assert math.isfinite(mark.low)
        assert math.isfinite(mark.high)
        assert mark.low < mark.high
        accepts = TypeAdapter(field.rebuild_annotation()).validate_python
        pair = any(map(_is_list, _options(field.annotation)))
        for end in (mark.low, mark.high):
            accepts([end, end] if pair else end)
