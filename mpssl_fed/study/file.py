"""From a study file to its fields: another study that it extends, and what the command line changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpssl_fed.config import Config, Override, config_folder, find, override, read_mapping
from mpssl_fed.config.load import OF_A_STUDY
from mpssl_fed.config.overrides import read as read_override
from mpssl_fed.config.plain import plain
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.study.keys import check_key, takes_list
from mpssl_fed.study.schema import Study, parse

OWN = ("seeds", "metric", "workers", "baseline", "target_accuracy", "output", "title", "note")
"""Keys of a study file that an override may set; all others are config keys."""
SHAPE = ("grid", "grids", "keep")
"""What says together which cells there are: a study that gives one of them takes none from the study that it extends."""


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


def read_study(path: str | Path, below: Sequence[Path] = ()) -> tuple[dict[str, Any], str]:
    """Return the fields of a study file, its name among them, joined with those of the study that it ``extends``; and the files.

    Its own fields take the place of the other's; ``base`` and ``variants`` are joined key by key, ``keep`` alone picks from the
    other's grid, and the other's ``name`` and ``output`` stay its own. below: resolved files that extend this one. UserError for a
    file that is not there, that is no study or that extends itself.
    """
    file = find_study(path)
    fields, where = read_mapping(file), str(file)
    if fields and fields.keys() <= Config.model_fields.keys():
        raise UserError(f"{file}: is the config of one run (it has no {', '.join(OF_A_STUDY)}): mpssl-fed simulate {path}")
    name = fields.setdefault("name", file.stem)
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name:
        raise UserError(f"{where}: name={name!r}: want a name for the study's folder, without '/'")
    if isinstance(fields.get("base"), str):
        fields["base"] = read_mapping(find(fields["base"]))
    fields = plain(fields, where)
    if fields.get("extends") is None:
        fields.pop("extends", None)
        return fields, where
    parent = _parent(file, fields.pop("extends"), below)
    inherited, theirs = read_study(parent, [*below, file.resolve()])
    parse({key: value for key, value in inherited.items() if key != "name"}, theirs)  # so that its own faults are laid to it
    inherited = {key: value for key, value in inherited.items() if key not in ("name", "output")}  # its folder stays its own
    return _joined(inherited, fields), f"{where} (extends {theirs})"


def _parent(file: Path, name: Any, below: Sequence[Path]) -> Path:
    """Return the file of the study ``name``, in the folder of ``file`` where it is there, else as a command line finds it."""
    if not isinstance(name, str):
        raise UserError(f"{file}: extends={str(name)[:200]}: want one study, as a path or a shipped study's name")
    near = (file.parent / name, file.parent / f"{name}.yaml")
    try:
        parent = next((path for path in near if path.is_file()), None) or find_study(name)
    except UserError as error:
        raise UserError(f"{file}: extends: {error}") from error
    chain = [*below, file.resolve(), parent.resolve()]
    if parent.resolve() in chain[:-1]:
        raise UserError(f"{file}: extends={name}: a study cannot extend itself: {' extends '.join(one.name for one in chain)}")
    if len(chain) > DEEPEST:
        raise UserError(f"{file}: extends={name}: {DEEPEST} studies extend one another, which none needs; join some of them")
    return parent


DEEPEST = 20
"""Studies that may extend one another."""


def _joined(inherited: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    given = [key for key in SHAPE if key in own]
    if given:
        gone = ("keep",) if given == ["keep"] else SHAPE
        inherited = {key: value for key, value in inherited.items() if key not in gone}
    if own.keys() & {"tuned", "untuned"}:  # one answer to where the settings come from
        inherited = {key: value for key, value in inherited.items() if key not in ("tuned", "untuned")}
    joined = inherited | own
    if isinstance(inherited.get("base"), dict) and isinstance(own.get("base"), dict):
        joined["base"] = _deep(inherited["base"], own["base"])
    if isinstance(inherited.get("variants"), dict) and isinstance(own.get("variants"), dict):
        joined["variants"] = inherited["variants"] | own["variants"]
    return joined


def _deep(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {key for key in other if isinstance(one.get(key), dict) and isinstance(other[key], dict)}
    return {**one, **{key: _deep(one[key], value) if key in both else value for key, value in other.items()}}


def override_study(fields: Mapping[str, Any], overrides: Sequence[str], where: str) -> tuple[dict[str, Any], list[Override]]:
    """Return a copy of the fields of a study with the overrides in it, and those that every cell or the study itself has."""
    changed: dict[str, Any] = plain(fields, where)
    fixed: list[Override] = []
    for item in overrides:
        key = item.partition("=")[0]
        if key in OWN or key.startswith("seeds."):
            fixed.append(read_override(item, Study))
            changed = override(changed, [fixed[-1]])
            continue
        check_key(key, f"override '{item[:200]}'")
        one = read_override(item, Config, lists=True)
        value = plain(one.value, one.blamed, key)
        grids = [block for block in _list_of(changed.get("grids")) if isinstance(block, dict)]
        blocks = [block for block in [changed.get("grid"), *grids] if isinstance(block, dict) and key in block]
        variants = changed.get("variants")
        if isinstance(variants, dict) and any(isinstance(bundle, dict) and key in bundle for bundle in variants.values()):
            raise UserError(f"override '{item}': a variant of {where} sets this key; change it there")
        if not blocks and isinstance(value, list) and not takes_list(key):  # a new axis of every grid
            blocks = grids or [changed.setdefault("grid", {})]
            blocks = [block for block in blocks if isinstance(block, dict)]
        for block in blocks:
            block[key] = value
        for kept in _list_of(changed.get("keep")):  # its values are the override's now
            if isinstance(kept, dict):
                kept.pop(key, None)
        if not blocks:
            fixed.append(one)
    ours = [one for one in fixed if one.key not in OWN and not one.key.startswith("seeds.")]
    if ours and isinstance(changed.get("base") or {}, dict):
        changed["base"] = override(changed.get("base") or {}, ours)
    return changed, fixed


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
