"""The schema of a study file: what it may say, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from mpssl_fed.config import Override
from mpssl_fed.config.section import Section
from mpssl_fed.errors import UserError, nearest

MOST_CELLS = 10_000
"""Cells in one study; more would take months here, and minutes to list."""


class Asked(Section):
    """A comparison that a study asks for beside those with the baseline."""

    arm: dict[str, Any] = Field(description="Settings of the arms to compare.")
    against: dict[str, Any] = Field(description="Settings of the arm that each of them is compared with.")

    @field_validator("arm", "against", mode="before")
    @classmethod
    def _variant(cls, side: Any) -> Any:
        return {"variant": side} if isinstance(side, str) else side


class Study(Section):
    """The content of a study file. Frozen; build one with :func:`load_study`."""

    title: str | None = Field(None, description="Heading of the report.")
    note: str | None = Field(None, description="A sentence or two under the heading.")
    base: str | dict[str, Any] = Field({}, description="Config that every cell starts from: a path, or the keys themselves.")
    grid: dict[str, list[Any]] = Field({}, description="Config key -> values; all combinations are run.")
    grids: list[dict[str, list[Any]]] = Field([], description="Several grids; their union is run.")
    variants: dict[str, dict[str, Any]] = Field({}, description="Name -> config keys set together; crossed with the grid.")
    seeds: list[int] = Field([0, 1, 2], min_length=1, max_length=MOST_CELLS, description="Seeds, or how many of them.")
    baseline: dict[str, Any] | None = Field(None, description="Settings of the arms that the others are compared with.")
    compare: list[Asked] = Field([], description="More comparisons, also between arms whose other settings differ.")
    metric: Literal["accuracy", "best", "loss"] = Field("accuracy", description="accuracy and loss are of the last round.")
    target_accuracy: float | None = Field(None, gt=0, lt=1, description="The cost table prints the time to reach it.")
    workers: int = Field(2, ge=1, le=1024, description="Cells at once.")
    output: str | None = Field(None, description="Folder of the study; default runs/STUDY-STEM.")
    show: dict[str, Any] | Literal["best"] | None = Field(
        None,
        description="Whose run files stand at the top: best, the best arm's, or settings (and seed) of a cell; null: nobody's.",
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, seeds: Any) -> Any:
        if not isinstance(seeds, int) or isinstance(seeds, bool):
            return seeds
        if seeds > MOST_CELLS:
            raise ValueError(f"want at most {MOST_CELLS:,} seeds")
        return list(range(seeds))

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("want distinct seeds, none negative, or a number of seeds of at least 1")
        return seeds

    @field_validator("grid", mode="before")
    @classmethod
    def _lists(cls, grid: Any) -> Any:
        """A single value stands for a list of one."""
        if not isinstance(grid, dict):
            return grid
        return {key: value if isinstance(value, list) else [value] for key, value in grid.items()}

    @field_validator("grids", mode="before")
    @classmethod
    def _lists_of_each(cls, grids: Any) -> Any:
        return [cls._lists(grid) for grid in grids] if isinstance(grids, list) else grids

    @field_validator("baseline", mode="before")
    @classmethod
    def _variant(cls, baseline: Any) -> Any:
        return {"variant": baseline} if isinstance(baseline, str) else baseline

    @model_validator(mode="after")
    def _something(self) -> Study:
        if self.grid and self.grids:
            raise ValueError("'grid' and 'grids' are both given; put the first into the second")
        if not (self.grid or self.grids or self.variants):
            raise ValueError("the grid is empty: give 'grid', 'grids' or 'variants', as in grid: {method.name: [base, mp-ssl]}")
        for block in self.blocks():
            for key, values in block.items():
                if not values:
                    raise ValueError(f"the grid is empty: key '{key}' has no value")
        return self

    def blocks(self) -> list[dict[str, list[Any]]]:
        """Return the grids whose union is run."""
        return self.grids or [self.grid]


def parse(fields: Mapping[str, Any], where: str, overrides: Sequence[Override] = ()) -> Study:
    """Return the study that ``fields`` describe; UserError names the key, the value and the nearest valid key.

    It begins with ``where``, or with the one of ``overrides`` that the key came from.
    """
    try:
        return Study.model_validate(fields)
    except ValidationError as error:
        raise UserError("\n".join(_explain(item, where, overrides) for item in error.errors())) from error


def _explain(item: Any, where: str, overrides: Sequence[Override]) -> str:
    key = ".".join(str(part) for part in item["loc"])
    where = next((one.blamed for one in reversed(overrides) if item["loc"] and one.key == item["loc"][0]), where)
    if item["type"] == "extra_forbidden":
        valid = list(Study.model_fields)
        return f"{where}: unknown study key '{key}'.{nearest(key, valid)} Valid: {', '.join(valid)}"
    message, shown = item["msg"].removeprefix("Value error, "), repr(item["input"])
    shown = shown if len(shown) <= 200 else shown[:200] + "..."
    return f"{where}: {key}={shown}: {message}" if key else f"{where}: {message}"
