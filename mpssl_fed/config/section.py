"""What every section of the config shares: unknown keys refused, and keys that belong to one name alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from mpssl_fed.config.marks import Marks

LARGEST_COUNT = 2**31 - 1
"""What a whole number of any key may be, either way; ``seed``, which counts nothing, has bounds of its own."""


class Closed(BaseModel):
    """Frozen, unknown keys refused, every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False, protected_namespaces=())


class Section(Closed):
    """A part of the config: ``marks`` says of each key who decides it at a deployed site."""

    marks: ClassVar[Marks] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number belongs: they would count as 1 and 0, as an epsilon too."""
        given = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(one, bool) for one in given) and _wants_numbers(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError("want a number, not true or false")
        return value

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        """Refuse a whole number that no count of anything can be; arrays and loops of that size only fail later, and worse."""
        for name, value in self:
            if type(value) is int and abs(value) > LARGEST_COUNT and name != "seed":
                raise ValueError(f"{name}={value}: want at most {LARGEST_COUNT:,}; nothing here is counted further")
        return self


def _wants_numbers(annotation: Any) -> bool:
    inner = get_args(annotation)  # of a Literal its values, of a union or a tuple its kinds
    return annotation in (int, float) or type(annotation) in (int, float) or any(_wants_numbers(one) for one in inner)


def own_options(fields: Any, default: str, own: Mapping[str, Mapping[str, Any]]) -> Any:
    """Fill the options of the part that ``fields["name"]`` names with their defaults and refuse those of another part.

    ``own`` maps each name to its options and their defaults. A plug-in (a name not in ``own``) takes its options through
    ``options``. Raises ValueError for an option of another name.
    """
    if not isinstance(fields, dict):
        return fields
    name = fields.get("name", default)
    if not isinstance(name, str):
        return fields  # the field says what is wrong with it
    mine = own.get(name, {})
    for key in sorted({key for options in own.values() for key in options} - set(mine)):
        if fields.get(key) is not None:
            owners = ", ".join(owner for owner, options in own.items() if key in options)
            raise ValueError(f"key '{key}' belongs to {owners}, not to '{name}'; remove it or change the name")
    return {**fields, **{key: value for key, value in mine.items() if fields.get(key) is None}}
