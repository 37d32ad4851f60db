"""The schema of a study file: what it may say, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from mpssl_fed.config import Override
from mpssl_fed.config.section import Section
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.study.headline import Metric

MOST_CELLS = 10_000
"""Cells in one study; more would take months here, and minutes to list."""


def _variant(side: Any) -> Any:
    """A name stands for the variant of this name."""
    return {"variant": side} if isinstance(side, str) else side


class Asked(Section):
    """A comparison of arms that a study names, beside those with the baselines."""

    arm: dict[str, Any] = Field(description="Settings of the arms to compare; of a list of values, any.")
    against: dict[str, Any] = Field(description="Settings of the arm that each of them is compared with.")
    where: dict[str, Any] = Field({}, description="Settings that both have; of a list of values, each.")

    _names = field_validator("arm", "against", mode="before")(_variant)

    @model_validator(mode="after")
    def _apart(self) -> Asked:
        for key in self.where:
            if key in self.arm or key in self.against:
                raise ValueError(f"'{key}' stands in 'where', which is of both arms, and in one of them; name it once")
        return self


class SeedRule(Section):
    """Seeds from 0 on: ``least`` of every arm, then more of the arms that primary comparisons need."""

    least: int = Field(ge=3, description="Seeds of every arm; their spread decides how many more a primary comparison takes.")
    most: int = Field(ge=3, le=MOST_CELLS, description="No arm gets more.")
    halfwidth: float = Field(gt=0, description="Half of the 95 % interval of a primary difference that is narrow enough.")
    others: int | None = Field(None, ge=1, description="Seeds of the arms in no primary comparison, where they get fewer.")

    @model_validator(mode="after")
    def _order(self) -> SeedRule:
        if self.most < self.least:
            raise ValueError(f"most={self.most} is below least={self.least}")
        if self.others is not None and self.others > self.least:
            raise ValueError(f"others={self.others} is above least={self.least}")
        return self


class Excuse(Section):
    """Arms whose settings are not those that tuning chose, and why."""

    arm: dict[str, Any] = Field(description="Settings of the arms; {} are all.")
    why: str = Field(min_length=8, description="The reason, in a sentence.")

    _names = field_validator("arm", mode="before")(_variant)


class Tuned(Section):
    """Where a study's settings come from: a table of results on validation images."""

    table: str = Field(description="results.csv of a study that tuned; a path here, or in the checkout.")
    keys: list[str] = Field(["optim.lr", "method.lambda"], min_length=1, description="Config keys that it chose.")
    by: list[str] = Field(["method.name"], description="Config keys that it chose them for; means are over all others.")
    unless: list[Excuse] = Field([], description="Arms that take other settings, each with the reason.")


Seeds = Annotated[
    Annotated[list[int], Field(min_length=1, max_length=MOST_CELLS), Tag("a list")] | Annotated[SeedRule, Tag("a rule")],
    Discriminator(lambda seeds: "a rule" if isinstance(seeds, dict | SeedRule) else "a list"),
]


class Study(Section):
    """The content of a study file. Frozen; build one with :func:`parse`."""

    title: str | None = Field(None, description="Heading of the report.")
    note: str | None = Field(None, description="A sentence or two under the heading.")
    base: str | dict[str, Any] = Field({}, description="Config that every cell starts from: a path, or the keys themselves.")
    grid: dict[str, list[Any]] = Field({}, description="Config key -> values; all combinations are run.")
    grids: list[dict[str, list[Any]]] = Field([], description="Several grids; their union is run.")
    variants: dict[str, dict[str, Any]] = Field({}, description="Name -> config keys set together; crossed with the grid.")
    keep: list[dict[str, Any]] = Field([], description="Settings, each a value or a list; only arms that fit one of these are run.")
    seeds: Seeds = Field([0, 1, 2], description="Seeds, how many of them, or a rule: least, most, halfwidth.")
    baseline: list[dict[str, Any]] = Field([], description="Settings of the arms that all others are compared with; one or more.")
    primary: list[Asked] = Field([], description="The few comparisons that the study is run for, tested apart from all others.")
    compare: list[Asked] = Field([], description="More comparisons, also between arms whose other settings differ.")
    metric: Metric = Field(
        "accuracy",
        description="Compares arms; brier, ece and loss: less is better. best is of the best round, all others of the last.",
    )
    target_accuracy: float | None = Field(None, gt=0, lt=1, description="The cost table prints the time to reach it.")
    workers: int = Field(2, ge=1, le=1024, description="Cells at once.")
    output: str | None = Field(None, description="Folder of the study; default runs/STUDY-STEM.")
    show: dict[str, Any] | Literal["best"] | None = Field(
        None,
        description="Whose run files stand at the top: best, the best arm's, or settings (and seed) of a cell; null: nobody's.",
    )
    tuned: Tuned | None = Field(None, description="Table of results that the settings were chosen by; they are held against it.")
    untuned: str | None = Field(None, min_length=8, description="Why the settings were chosen by no table.")
    method_version: int | None = Field(
        None, ge=1, description="Of the rows of a kept table: a study of another one is read, not run."
    )

    @property
    def rule(self) -> SeedRule | None:
        """The rule that adds seeds, if any."""
        return self.seeds if isinstance(self.seeds, SeedRule) else None

    @property
    def first_seeds(self) -> list[int]:
        """The seeds of the first stage: all but those that a rule may add."""
        return list(range(self.seeds.least)) if isinstance(self.seeds, SeedRule) else self.seeds

    @property
    def common_seeds(self) -> list[int]:
        """The seeds of every arm, primary or not."""
        return self.first_seeds[: self.rule.others] if self.rule is not None else self.first_seeds

    @property
    def all_seeds(self) -> list[int]:
        """The seeds that an arm of a primary comparison may get."""
        return list(range(self.seeds.most)) if isinstance(self.seeds, SeedRule) else self.seeds

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
    def _distinct(cls, seeds: list[int] | SeedRule) -> list[int] | SeedRule:
        if isinstance(seeds, list) and (len(set(seeds)) < len(seeds) or min(seeds) < 0):
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
    def _baselines(cls, baseline: Any) -> Any:
        """One stands for a list of one, none for an empty list."""
        several = [_variant(one) for one in (baseline if isinstance(baseline, list) else [] if baseline is None else [baseline])]
        if any(one == {} for one in several):
            raise ValueError("want the settings that a baseline has, as in baseline: {method.name: base}")
        if any(one in several[:number] for number, one in enumerate(several)):
            raise ValueError("the same baseline is given twice; remove one")
        return several

    @field_validator("tuned", mode="before")
    @classmethod
    def _table(cls, tuned: Any) -> Any:
        return {"table": tuned} if isinstance(tuned, str) else tuned

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

    @model_validator(mode="after")
    def _fits(self) -> Study:
        if self.rule is not None and not self.primary:
            raise ValueError("'seeds' adds seeds for primary comparisons, and 'primary' names none; name them or give a number")
        if self.tuned is not None and self.untuned is not None:
            raise ValueError("'tuned' and 'untuned' are both given; keep one, and the reasons of single arms under tuned.unless")
        return self

    def blocks(self) -> list[dict[str, list[Any]]]:
        """Return the grids whose union is run."""
        return self.grids or [self.grid]


PARTS: dict[str, type[Section]] = {"compare": Asked, "primary": Asked, "seeds": SeedRule, "tuned": Tuned}


def parse(fields: Mapping[str, Any], where: str, overrides: Sequence[Override] = ()) -> Study:
    """Return the study that ``fields`` describe; UserError names the key, the value and the nearest valid key.

    It begins with ``where``, or with the one of ``overrides`` that the key came from.
    """
    try:
        return Study.model_validate(fields)
    except ValidationError as error:
        raise UserError("\n".join(_explain(item, where, overrides) for item in error.errors())) from error


def _explain(item: Any, where: str, overrides: Sequence[Override]) -> str:
    path = [str(part) for part in item["loc"] if part not in ("a list", "a rule")]
    key = ".".join(path)
    touching = [one for one in overrides if key and f"{one.key}.".startswith(f"{key}.")]
    where = f"{where} with {', '.join(one.said for one in touching)}" if touching else where
    where = next((one.blamed for one in reversed(overrides) if f"{key}.".startswith(f"{one.key}.")), where)
    if item["type"] == "extra_forbidden":
        model = Study if len(path) == 1 else Excuse if "unless" in path else PARTS.get(path[0], Study)
        valid = list(model.model_fields)
        return f"{where}: unknown study key '{key}'.{nearest(path[-1], valid)} Valid: {', '.join(valid)}"
    message, shown = item["msg"].removeprefix("Value error, "), repr(item["input"])
    shown = shown if len(shown) <= 200 else shown[:200] + "..."
    return f"{where}: {key}={shown}: {message}" if key else f"{where}: {message}"
