"""A study file: which configs are compared over which seeds. Everything in it is checked before anything runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mpssl_fed.config import Config, find, from_mapping, override, read_mapping
from mpssl_fed.config.learning import CONTROLS
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.study.cell_key import cell_key
from mpssl_fed.study.keys import check_key, get_key, holds_list, set_key, short_names, show_value
from mpssl_fed.study.schema import Asked, Study, parse

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
        return Path(self.study.output or Path("runs") / self.name)

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
        return yaml.safe_dump(fields, sort_keys=False)


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
    """Return the study file that ``path`` names: as given, else among the shipped studies."""
    return Path(path) if Path(path).is_file() or Path(path).suffix else find(Path("studies") / path)


def load_study(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Plan:
    """Return the plan of a study file, every key and every cell's config checked.

    An override ``key.path=value`` fixes a config key in all cells; of a key in the grid it replaces the values, and a list for a
    key that takes a single value is a new axis of the grid. The plain keys ``seeds``, ``metric``, ``workers``, ``baseline`` and
    ``target_accuracy`` change the study itself. Overrides that leave out the ``show`` cell, or an arm of ``compare``, drop it.
    UserError names the file, the key and the cure.
    """
    file = find(find_study(path))
    fields = read_mapping(file)
    name = str(fields.pop("name", file.stem))
    where = str(file)
    if isinstance(fields.get("base"), str):
        fields["base"] = read_mapping(find(fields["base"]))
    study = parse(_override_study(fields, overrides, where), where)
    cells = _cells(study, where)
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


def _override_study(fields: dict[str, Any], overrides: list[str] | tuple[str, ...], where: str) -> dict[str, Any]:
    own = {"seeds", "metric", "workers", "baseline", "target_accuracy", "output", "title", "note"}
    for item in overrides:
        key = item.partition("=")[0]
        value = override({}, [item])
        if key in own:
            fields[key] = value[key]
            continue
        check_key(key, f"override '{item}'")
        value = get_key(value, key)
        blocks = [block for block in [fields.get("grid"), *(fields.get("grids") or [])] if isinstance(block, dict) and key in block]
        if any(isinstance(bundle, dict) and key in bundle for bundle in (fields.get("variants") or {}).values()):
            raise UserError(f"override '{item}': a variant of {where} sets this key; change it there")
        if not blocks and isinstance(value, list) and not holds_list(key):  # a new axis of every grid
            blocks = [block for block in fields.get("grids") or [fields.setdefault("grid", {})] if isinstance(block, dict)]
        for block in blocks:
            block[key] = value
        if not blocks:
            fields["base"] = override(fields.get("base") or {}, [item])
    return fields


def _cells(study: Study, where: str) -> tuple[Cell, ...]:
    bundles = _bundles(study, where)
    given = list(dict.fromkeys(key for _, settings in bundles for key in settings if key != "variant"))
    names: dict[str, str] = {}
    cells = []
    for seed in study.seeds:
        seen: set[str] = set()
        for fields, settings in bundles:
            config = from_mapping({**fields, "seed": seed}, f"{where}, cell {label(settings)}")
            resolved = config.dump()
            full = {"variant": settings["variant"]} if "variant" in settings else {}
            cell = Cell(config, full | {key: get_key(resolved, key) for key in given})
            key = cell_key(config, 0)
            if names.setdefault(key, arm_of(cell.settings)) != arm_of(cell.settings):
                first = label(json.loads(names[key]))
                raise UserError(f"{where}: '{first}' and '{cell.label}' are the same config; remove one or let them differ")
            if key not in seen:
                seen.add(key)
                cells.append(cell)
    _check_selection(study.baseline, cells, f"{where}: baseline", study.metric)
    return tuple(cells)


def _bundles(study: Study, where: str) -> list[tuple[dict[str, Any], Settings]]:
    """Return (fields of the config, settings) of every arm, before resolution, in the file's order."""
    bundles = []
    for block in study.blocks():
        chosen = block.get("variant", list(study.variants))
        for name in chosen:
            if name not in study.variants:
                raise UserError(f"{where}: unknown variant '{name}'.{nearest(str(name), study.variants)} See 'variants'")
        grid = {key: values for key, values in block.items() if key != "variant"}
        for key in grid:
            check_key(key, f"{where}: grid")
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
            chosen_keys = {*grid, *(study.variants[name] if name is not None else {})}
            _let_control_win(fields, chosen_keys)
            bundles.append((fields, settings))
    return bundles


def _let_control_win(fields: dict[str, Any], chosen: set[str]) -> None:
    """Take out of ``fields`` what only the study's base sets and the control that this arm is means otherwise.

    So a control stands in one grid with the methods, whatever model or strategy those have.
    """
    method = fields.get("method")
    control = method.get("name") if isinstance(method, dict) and "method.name" in chosen else None
    for section, sets in CONTROLS.get(str(control), {}).items():
        for key in sets:
            path = f"{section}.{key}"
            if isinstance(fields.get(section), dict) and not any(k == section or (k + ".").startswith(path + ".") for k in chosen):
                fields[section].pop(key, None)


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
