"""A study file: which configs are compared over which seeds. Everything in it is checked before anything runs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mpssl_fed.config import Config, Override, from_mapping, to_yaml
from mpssl_fed.config.overrides import drop_orphans
from mpssl_fed.environment import expanded
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.method_version import METHOD_VERSION
from mpssl_fed.runs.reader import default_folder
from mpssl_fed.study.cell_key import cell_key
from mpssl_fed.study.file import find_study, override_study, read_study
from mpssl_fed.study.keys import Settings, arm_of, check_key, get_key, label, set_key
from mpssl_fed.study.schema import MOST_CELLS, Study, parse
from mpssl_fed.study.selection import (
    Pair,
    asked_pairs,
    check_baseline,
    check_each,
    check_kept,
    check_selection,
    is_there,
    matches,
    sides,
)

__all__ = ["Cell", "Plan", "Settings", "arm_of", "find_study", "label", "load_study"]


@dataclass(frozen=True)
class Cell:
    """One run of a study: its config, the settings that tell its arm from the others, and its seed."""

    config: Config
    settings: Settings
    method_version: int | None = None
    """That of the toolkit, unless the study is of an older one (see ``Study.method_version``)."""

    @cached_property
    def sha256(self) -> str:
        """The cell's key: the SHA-256 of what its config sets otherwise than the defaults, and of the method version."""
        return cell_key(self.config, self.method_version or METHOD_VERSION)

    @property
    def id(self) -> str:
        """The start of the key: the name of the cell's folder."""
        return self.sha256[:12]

    @property
    def seed(self) -> int:
        """Root seed of the run."""
        return self.config.seed

    @property
    def label(self) -> str:
        """The settings in words."""
        return label(self.settings)


@dataclass(frozen=True)
class Plan:
    """A checked study and its cells, all of the first seed first; those that a rule may add last."""

    study: Study
    cells: tuple[Cell, ...]
    name: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The grid keys in the order of the tables."""
        return tuple(self.cells[0].settings)

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys that a reader needs: all, but of a study that keeps a part of a grid those alone that differ in it."""
        return tuple(self.telling(self.cells[0].settings)) if self.study.keep else self.keys

    @property
    def first(self) -> tuple[Cell, ...]:
        """The cells of the first stage: those that are run in any case."""
        seeds = set(self.study.first_seeds)
        return tuple(cell for cell in self.cells if cell.seed in seeds)

    def telling(self, settings: Settings) -> Settings:
        """Return those of ``settings`` that differ between arms; all of them in a study of one arm."""
        varied = [key for key in settings if len({arm_of({key: cell.settings[key]}) for cell in self.cells}) > 1]
        return {key: settings[key] for key in varied or settings}

    def folder(self) -> Path:
        """Return where the study is written."""
        return expanded(self.study.output) if self.study.output else default_folder(self.name, study=True)

    def shown(self) -> Cell | None:
        """Return the cell that the study itself chose to show; None where it is left to the results."""
        if self.study.show is None or self.study.show == "best":
            return None
        want = {"seed": self.study.first_seeds[0], **self.study.show}
        return next(cell for cell in self.cells if matches({**cell.settings, "seed": cell.seed}, want))

    def arms(self) -> dict[str, Settings]:
        """Return the settings of each arm by its name, in the order of the study."""
        return {arm_of(cell.settings): cell.settings for cell in self.cells}

    def primary(self) -> list[Pair]:
        """Return the pairs (arm, against) of ``primary``, each once."""
        return asked_pairs(self.study.primary, self.arms(), f"study {self.name}: primary")

    def asked(self) -> list[Pair]:
        """Return the pairs (arm, against) of ``compare``, each once."""
        return asked_pairs(self.study.compare, self.arms(), f"study {self.name}: compare")

    def to_yaml(self) -> str:
        """Return the study with its base and name resolved: enough to rebuild the cells anywhere."""
        fields = {"name": self.name, **self.study.model_dump(mode="json", exclude_none=True)}
        return to_yaml(fields)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Return the plan of a study file, every key and every cell's config checked.

    An override ``key.path=value`` fixes a config key in all cells; of a key in the grid it replaces the values, and a list for a
    key that takes a single value is a new axis of the grid. The plain keys ``seeds`` (and ``seeds.most`` ...), ``metric``,
    ``workers``, ``baseline`` and ``target_accuracy`` change the study itself. Overrides that leave out the ``show`` cell, an arm of
    ``primary`` or ``compare``, or one of several baselines, drop it. UserError names the file, the key and the cure.
    """
    fields, where = read_study(path)
    name = fields.pop("name")
    fields, fixed = override_study(fields, overrides, where)
    study = parse(fields, where, fixed)
    arms = _arms(study, where, fixed)
    known = [arm.settings for arm in arms]
    study = _left(study, known) if overrides else study
    seeds = [{**settings, "seed": seed} for settings in known for seed in study.common_seeds]
    check_selection(study.show if isinstance(study.show, dict) else None, seeds, f"{where}: show")
    for baseline in study.baseline:
        check_baseline(baseline, known, f"{where}: baseline")
    for what, several in (("primary", study.primary), ("compare", study.compare)):
        for side in (side for asked in several for side in sides(asked)):
            check_selection(side, known, f"{where}: {what}")
        names = {arm_of(settings): settings for settings in known}
        asked_pairs(several, names, f"{where}: {what}")
        for asked in several if not overrides else ():  # which may leave some of the values out
            check_each(asked, names, f"{where}: {what}")
    plan = Plan(study, _of_seeds(arms, study.common_seeds), name)
    needed = {name for pair in plan.primary() for name in pair}
    more = [arm for arm in arms if arm_of(arm.settings) in needed]
    cells = len(plan.cells) + len(more) * (len(study.all_seeds) - len(study.common_seeds))
    _bound(cells, where, f" ({cells:,}, with the most seeds that the rule may add)")
    return Plan(study, (*plan.cells, *_of_seeds(more, study.all_seeds[len(study.common_seeds) :])), name)


def _left(study: Study, known: Sequence[Settings]) -> Study:
    """Return the study without the cell to show, the baselines and the comparisons that its overrides left out."""
    seeds = [{**settings, "seed": seed} for settings in known for seed in study.common_seeds]
    shown = not isinstance(study.show, dict) or any(matches(settings, study.show) for settings in seeds)
    primary = [asked for asked in study.primary if is_there(asked, known)]
    left: dict[str, Any] = {
        "show": study.show if shown else None,
        "baseline": [one for one in study.baseline if any(matches(arm, one) for arm in known)] or study.baseline,
        "primary": primary,
        "compare": [asked for asked in study.compare if is_there(asked, known)],
    }
    return study.model_copy(update=left if primary else left | {"seeds": study.first_seeds})


def _of_seeds(arms: Sequence[Cell], seeds: Sequence[int]) -> tuple[Cell, ...]:
    return tuple(
        arm if arm.seed == seed else replace(arm, config=arm.config.model_copy(update={"seed": seed}))
        for seed in seeds
        for arm in arms
    )


def _arms(study: Study, where: str, fixed: Sequence[Override]) -> list[Cell]:
    """Return the cell of the first seed of each arm that the study keeps."""
    bundles = _bundles(study, where)
    given = list(dict.fromkeys(key for _, settings in bundles for key in settings if key != "variant"))
    arms: dict[str, Cell] = {}
    for fields, settings in bundles:
        config = from_mapping({**fields, "seed": study.first_seeds[0]}, f"{where}, cell {label(settings)}", fixed)
        resolved = config.dump()
        full = {"variant": settings["variant"]} if "variant" in settings else {}
        cell = Cell(config, full | {key: get_key(resolved, key) for key in given}, study.method_version)
        other = arms.setdefault(cell_key(config, 0), cell)
        if other.settings != cell.settings:
            raise UserError(f"{where}: '{other.label}' and '{cell.label}' are the same config; remove one or let them differ")
    if not study.keep:
        return list(arms.values())
    check_kept(study.keep, [arm.settings for arm in arms.values()], f"{where}: keep")
    return [arm for arm in arms.values() if any(matches(arm.settings, want) for want in study.keep)]


def _bound(cells: int, where: str, said: str = "") -> None:
    if cells > MOST_CELLS:
        raise UserError(f"{where}: more than {MOST_CELLS:,} cells{said}")


def _bundles(study: Study, where: str) -> list[tuple[dict[str, Any], Settings]]:
    """Return (fields of the config, settings) of every arm, before resolution, in the file's order."""
    bundles: list[tuple[dict[str, Any], Settings]] = []
    for block in study.blocks():
        chosen = block.get("variant", list(study.variants))
        for name in chosen:
            if not isinstance(name, str) or name not in study.variants:
                raise UserError(f"{where}: unknown variant '{name}'.{nearest(str(name), study.variants)} See 'variants'")
        grid = {key: values for key, values in block.items() if key != "variant"}
        for key in grid:
            check_key(key, f"{where}: grid")
        arms = math.prod(len(values) for values in grid.values()) * max(1, len(chosen))
        common = len(study.common_seeds)
        _bound((len(bundles) + arms) * common, where, f" ({arms:,} arms of one grid x {common:,} seeds)")
        for name, values in itertools.product(chosen or [None], itertools.product(*grid.values())):
            fields = json.loads(json.dumps(study.base))
            settings: Settings = {} if name is None else {"variant": name}
            for key, value in (study.variants[name] if name is not None else {}).items():
                check_key(key, f"{where}: variants.{name}")
                if key in grid:
                    raise UserError(f"{where}: key '{key}' stands both in the grid and in the variant '{name}'")
                set_key(fields, key, value)
            for key, value in zip(grid, values, strict=True):
                set_key(fields, key, value)
                settings[key] = value
            drop_orphans(
                study.base if isinstance(study.base, dict) else {},
                fields,
                {*grid, *(study.variants[name] if name is not None else {})},
            )
            bundles.append((fields, settings))
    return bundles
