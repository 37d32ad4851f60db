"""A study file: which configs are compared over which seeds. Everything in it is checked before anything runs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mpssl_fed.config import Config, Override, config_folder, find, from_mapping, override, read_mapping, to_yaml
from mpssl_fed.config.load import OF_A_STUDY
from mpssl_fed.config.overrides import drop_orphans
from mpssl_fed.config.overrides import read as read_override
from mpssl_fed.config.plain import plain
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.runs.reader import default_folder
from mpssl_fed.study.cell_key import cell_key
from mpssl_fed.study.keys import check_key, get_key, set_key, short_names, show_value, takes_list
from mpssl_fed.study.schema import MOST_CELLS, Asked, Study, parse

Settings = dict[str, Any]
"""What tells one arm of a study from another: grid key (or ``variant``) -> value."""


@dataclass(frozen=True)
class Cell:
    """One run of a study: its config, the settings that tell its arm from the others, and its seed."""

    config: Config
    settings: Settings

    @cached_property
    def sha256(self) -> str:
        """The cell's key: the SHA-256 of what its config sets otherwise than the defaults, and of the method version."""
        from mpssl_fed.method import METHOD_VERSION  # here: it brings torch in

        return cell_key(self.config, METHOD_VERSION)

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
    """A checked study and its cells, all of the first seed first."""

    study: Study
    cells: tuple[Cell, ...]
    name: str

    @property
    def keys(self) -> tuple[str, ...]:
        """The grid keys in the order of the tables."""
        return tuple(self.cells[0].settings)

    def telling(self, settings: Settings) -> Settings:
        """Return those of ``settings`` that differ between arms; all of them in a study of one arm."""
        varied = [key for key in settings if len({arm_of({key: cell.settings[key]}) for cell in self.cells}) > 1]
        return {key: settings[key] for key in varied or settings}

    def folder(self) -> Path:
        """Return where the study is written."""
        return Path(self.study.output) if self.study.output else default_folder(self.name, study=True)

    def shown(self) -> Cell | None:
        """Return the cell that the study itself chose to show; None where it is left to the results."""
        if self.study.show is None or self.study.show == "best":
            return None
        want = {"seed": self.study.seeds[0], **self.study.show}
        return next(cell for cell in self.cells if _matches({**cell.settings, "seed": cell.seed}, want))

    def arms(self) -> dict[str, Settings]:
        """Return the settings of each arm by its name, in the order of the study."""
        return {arm_of(cell.settings): cell.settings for cell in self.cells}

    def asked(self) -> list[tuple[str, str]]:
        """Return the pairs (arm, against) of ``compare``, each once; UserError where they do not name arms."""
        return asked_pairs(self.study.compare, self.arms(), f"study {self.name}")

    def to_yaml(self) -> str:
        """Return the study with its base and name resolved: enough to rebuild the cells anywhere."""
        fields = {"name": self.name, **self.study.model_dump(mode="json", exclude_none=True)}
        return to_yaml(fields)


def label(settings: Settings) -> str:
    """Return the settings in words, ``mp-ssl · half-strong``; numbers and flags carry the name of their key."""
    short = short_names(list(settings))
    words = []
    for key, value in settings.items():
        text = show_value(value)
        words.append(text if isinstance(value, str | Mapping) else f"{short[key]} {text}")
    return " · ".join(words)


def arm_of(settings: Settings) -> str:
    """Return a hashable name of the settings, the same whatever the order of nested keys."""
    return json.dumps(settings, sort_keys=True)


def find_study(path: str | Path) -> Path:
    """Return the study file that ``path`` names: as given, else among the shipped studies (``demo``, ``studies/demo``)."""
    if Path(path).is_file() or Path(path).suffix:
        return find(path)
    try:
        return find(path if Path(path).parts[:1] == ("studies",) else Path("studies") / path)
    except UserError:
        raise UserError(_no_study(path)) from None


def _no_study(path: str | Path) -> str:
    try:
        find(path)
    except UserError as error:
        names = sorted(file.stem for file in (config_folder() / "studies").glob("*.yaml"))
        what = "is a folder, want a YAML file" if "is a folder" in str(error) else "no such file"
        return f"study '{path}': {what}.{nearest(str(path), names)} Shipped: {', '.join(names)}"
    return f"study '{path}': is the config of one run: mpssl-fed simulate {path}"


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Return the plan of a study file, every key and every cell's config checked.

    An override ``key.path=value`` fixes a config key in all cells; of a key in the grid it replaces the values, and a list for a
    key that takes a single value is a new axis of the grid. The plain keys ``seeds``, ``metric``, ``workers``, ``baseline`` and
    ``target_accuracy`` change the study itself. Overrides that leave out the ``show`` cell, or an arm of ``compare``, drop it.
    UserError names the file, the key and the cure.
    """
    file = find_study(path)
    fields, where = read_mapping(file), str(file)
    if fields and fields.keys() <= Config.model_fields.keys():
        raise UserError(f"{file}: is the config of one run (it has no {', '.join(OF_A_STUDY)}): mpssl-fed simulate {path}")
    name = fields.pop("name", file.stem)
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name:
        raise UserError(f"{where}: name={name!r}: want a name for the study's folder, without '/'")
    if isinstance(fields.get("base"), str):
        fields["base"] = read_mapping(find(fields["base"]))
    fields, fixed = _override_study(plain(fields, where), overrides, where)
    study = parse(fields, where, fixed)
    cells = _cells(study, where, fixed)
    pinned = study.show if isinstance(study.show, dict) else None
    if not overrides:
        _check_selection(pinned, cells, f"{where}: show", None)
    elif pinned is not None and not any(_matches({**cell.settings, "seed": cell.seed}, pinned) for cell in cells):
        study = study.model_copy(update={"show": None})  # the overrides left that cell out
    for side in (side for asked in study.compare for side in (asked.arm, asked.against)) if not overrides else ():
        _check_selection(side, cells, f"{where}: compare", study.metric)
    if overrides:
        kept = [a for a in study.compare if all(any(_matches(c.settings, side) for c in cells) for side in (a.arm, a.against))]
        study = study.model_copy(update={"compare": kept})
    asked_pairs(study.compare, {arm_of(cell.settings): cell.settings for cell in cells}, where)
    return Plan(study, cells, name)


def asked_pairs(compare: Sequence[Asked], arms: Mapping[str, Settings], where: str) -> list[tuple[str, str]]:
    """Return (arm, against) of each comparison that a study asks for, once.

    ``against`` is the only arm with its settings, else the one of them whose other settings are the arm's own. UserError
    where that leaves none or several.
    """
    pairs: dict[tuple[str, str], None] = {}
    for asked in compare:
        fits = {name: settings for name, settings in arms.items() if _matches(settings, asked.against)}
        chosen = [name for name, own in arms.items() if _matches(own, asked.arm)]
        found: dict[tuple[str, str], None] = {}
        for name in chosen:
            alike = [other for other, settings in fits.items() if _same_elsewhere(settings, arms[name], asked.against)]
            against = list(fits) if len(fits) == 1 else alike
            if len(against) != 1:
                number = "none" if not against else f"{len(against)}"
                raise UserError(
                    f"{where}: compare: {len(fits)} arms have {label(asked.against)}, {number} with the other settings of "
                    f"'{label(arms[name])}'; name more keys under 'against', so that one is left"
                )
            if against[0] != name:
                found[name, against[0]] = None
        if not found:
            own = f"'{label(arms[chosen[0]])}'" if chosen else "no arm"
            raise UserError(f"{where}: compare: {own} would be compared with itself alone; name another 'against'")
        pairs |= found
    return list(pairs)


def _same_elsewhere(settings: Settings, own: Settings, besides: Settings) -> bool:
    return all(settings[key] == own[key] for key in own if key not in besides)


OWN = ("seeds", "metric", "workers", "baseline", "target_accuracy", "output", "title", "note")
"""Keys of a study file that an override may set."""


def _override_study(fields: dict[str, Any], overrides: Sequence[str], where: str) -> tuple[dict[str, Any], list[Override]]:
    """Return the fields of the study with the overrides in them, and those that every cell has."""
    fixed: list[Override] = []
    for item in overrides:
        key = item.partition("=")[0]
        if key in OWN:
            fixed.append(read_override(item, Study))
            fields[key] = plain(fixed[-1].value, fixed[-1].blamed, key)
            continue
        check_key(key, f"override '{item[:200]}'")
        one = read_override(item, Config, lists=True)
        value = plain(one.value, one.blamed, key)
        grids = [block for block in _list_of(fields.get("grids")) if isinstance(block, dict)]
        blocks = [block for block in [fields.get("grid"), *grids] if isinstance(block, dict) and key in block]
        variants = fields.get("variants")
        if isinstance(variants, dict) and any(isinstance(bundle, dict) and key in bundle for bundle in variants.values()):
            raise UserError(f"override '{item}': a variant of {where} sets this key; change it there")
        if not blocks and isinstance(value, list) and not takes_list(key):  # a new axis of every grid
            blocks = grids or [fields.setdefault("grid", {})]
            blocks = [block for block in blocks if isinstance(block, dict)]
        for block in blocks:
            block[key] = value
        if not blocks:
            fixed.append(one)
    ours = [one for one in fixed if one.key not in OWN]
    if ours and isinstance(fields.get("base") or {}, dict):
        fields["base"] = override(fields.get("base") or {}, ours)
    return fields, fixed


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _cells(study: Study, where: str, fixed: Sequence[Override]) -> tuple[Cell, ...]:
    arms = []
    for fields, settings in _bundles(study, where):
        config = from_mapping({**fields, "seed": study.seeds[0]}, f"{where}, cell {label(settings)}", fixed)
        arms.append((config, settings))
    given = list(dict.fromkeys(key for _, settings in arms for key in settings if key != "variant"))
    names: dict[str, str] = {}
    distinct: list[Cell] = []
    for config, settings in arms:
        dumped = config.dump()
        full = {"variant": settings["variant"]} if "variant" in settings else {}
        cell = Cell(config, full | {key: get_key(dumped, key) for key in given})
        key, arm = cell_key(config, 0), arm_of(cell.settings)
        if names.get(key, arm) != arm:
            first = label(json.loads(names[key]))
            raise UserError(f"{where}: '{first}' and '{cell.label}' are the same config; remove one or let them differ")
        if key not in names:
            distinct.append(cell)
        names[key] = arm
    cells = [replace(cell, config=cell.config.model_copy(update={"seed": seed})) for seed in study.seeds for cell in distinct]
    _check_selection(study.baseline, cells, f"{where}: baseline", study.metric)
    return tuple(cells)


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
        if (len(bundles) + arms) * len(study.seeds) > MOST_CELLS:
            raise UserError(f"{where}: more than {MOST_CELLS:,} cells ({arms:,} arms of one grid x {len(study.seeds):,} seeds)")
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


def _check_selection(want: Settings | None, cells: Sequence[Cell], where: str, metric: str | None) -> None:
    if want is None:
        return
    known = {**cells[0].settings, **({} if metric else {"seed": 0})}
    for key in want:
        if key not in known:
            raise UserError(f"{where}: '{key}' is no key of the grid.{nearest(key, known)} Keys: {', '.join(known)}")
    if not any(_matches({**cell.settings, "seed": cell.seed}, want) for cell in cells):
        raise UserError(f"{where}: no cell has {label(want)}; change it, or set it to null")


def _matches(settings: Settings, want: Settings) -> bool:
    return all(key in settings and _same(settings[key], value) for key, value in want.items())


def _same(value: Any, want: Any) -> bool:
    """Whether a resolved value is the wanted one; of a bundle of options those that are named count."""
    if isinstance(value, Mapping) and isinstance(want, Mapping):
        return all(key in value and _same(value[key], option) for key, option in want.items())
    return bool(value == want)
