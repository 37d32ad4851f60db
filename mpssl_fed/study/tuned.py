"""Whether a study's settings are those that tuning chose: its arms held against a table of results on validation images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from mpssl_fed.config import Config, config_folder
from mpssl_fed.errors import UserError
from mpssl_fed.method_version import METHOD_VERSION
from mpssl_fed.study.grid import Plan
from mpssl_fed.study.headline import higher_is_better
from mpssl_fed.study.keys import check_key, get_key, show_value
from mpssl_fed.study.result_table import read_lines
from mpssl_fed.study.results import FINISHED
from mpssl_fed.study.schema import Tuned
from mpssl_fed.study.selection import matches

Values = tuple[str, ...]
"""Values of config keys as a table shows them."""


@dataclass(frozen=True)
class Departure:
    """An arm whose settings are not the table's best for it. chosen: what the table chose, by key, [] where it has no such arm;
    why: the study's reason, None where it gives none."""

    arm: str
    own: Values
    chosen: tuple[Values, ...]
    why: str | None


def table_of(tuned: Tuned) -> Path | None:
    """Return the file of the table: as given, else in the checkout; None where it is in neither."""
    places = (Path(tuned.table), config_folder().parent / tuned.table)
    return next((path for path in places if path.is_file()), None)


def chosen(tuned: Tuned, table: Path, metric: str) -> dict[Values, tuple[Values, ...]]:
    """Return values of ``by`` -> values of ``keys`` of the best mean over all other columns and seeds; several where they tie.

    Values that were tried in fewer rows than others, a failed cell for instance, take no part. UserError for a table that lacks a
    column.
    """
    lines = [line for line in read_lines(table) if line["status"] == FINISHED]
    for key in (*tuned.by, *tuned.keys, metric):
        if lines and key not in lines[0]:
            raise UserError(f"{table}: no column {key}; tuned.keys and tuned.by must be keys of the study that tuned")
    trials: dict[Values, dict[Values, list[float]]] = {}
    for line in lines:
        values = trials.setdefault(_of(line, tuned.by), {}).setdefault(_of(line, tuned.keys), [])
        values.append(float(line[metric]))
    best = {}
    for what, tried in trials.items():
        most = max(len(values) for values in tried.values())
        means = {values: fmean(found) for values, found in tried.items() if len(found) == most}
        top = max(means.values()) if higher_is_better(metric) else min(means.values())
        best[what] = tuple(values for values, mean in means.items() if abs(mean - top) < 1e-9)
    return best


def departures(plan: Plan, table: Path) -> list[Departure]:
    """Return the arms of a study whose settings the table did not choose, those without a reason first; UserError for ``tuned``
    keys that are no config keys or no columns of the table."""
    tuned = plan.study.tuned
    assert tuned is not None
    for key in (*tuned.keys, *tuned.by):
        check_key(key, f"study {plan.name}: tuned")
    best, found = chosen(tuned, table, plan.study.metric), []
    firsts = {cell.label: cell for cell in reversed(plan.first)}
    for cell in reversed(firsts.values()):
        what, own = _values(cell.config, tuned.by), _values(cell.config, tuned.keys)
        if own in best.get(what, ()):
            continue
        why = next((excuse.why for excuse in tuned.unless if matches(cell.settings, excuse.arm)), None)
        found.append(Departure(cell.label, own, best.get(what, ()), why))
    return sorted(found, key=lambda one: one.why is not None)


def idle_reasons(plan: Plan, table: Path) -> list[str]:
    """Return the reasons under ``tuned.unless`` that no arm needs: they have outlived what they explain."""
    tuned = plan.study.tuned
    assert tuned is not None
    needed = {one.why for one in departures(plan, table)}
    return [excuse.why for excuse in tuned.unless if excuse.why not in needed]


def explained(departure: Departure, tuned: Tuned) -> str:
    """Return a departure in words."""
    own = _assigned(tuned, departure.own)
    best = " or ".join(_assigned(tuned, values) for values in departure.chosen)
    said = f"{departure.arm}: {own}, where {tuned.table} chose {best or 'nothing for it'}"
    return f"{said}: {departure.why}" if departure.why else f"{said}, and the study file gives no reason (tuned.unless)"


def settings_words(plan: Plan) -> str:
    """Return in a sentence or more where the settings of a study come from; "" where its file does not tell."""
    tuned = plan.study.tuned
    if tuned is None:
        return f"Settings were not tuned for this study: {plan.study.untuned}" if plan.study.untuned else ""
    said = f"Settings ({', '.join(f'`{key}`' for key in tuned.keys)}) are the best on validation images in {tuned.table}"
    table = table_of(tuned)
    if table is None:
        return f"{said}, by the study file; the table is not here to be read."
    found, said = departures(plan, table), said + _other_version(plan, table)
    if not found:
        return f"{said}, in every arm."
    bare = [one.arm for one in found if one.why is None]
    reasons = dict.fromkeys(one.why for one in found if one.why is not None)
    said += f", but for {len(found)} of {len(plan.arms())} arms." + "".join(f" {why}" for why in reasons)
    return said + (f" No reason is given for {', '.join(bare[:3])}{' and others' if len(bare) > 3 else ''}." if bare else "")


def _other_version(plan: Plan, table: Path) -> str:
    """Return of which method version a table is, where this is not the study's own."""
    own = str(plan.study.method_version or METHOD_VERSION)
    others = sorted({line["method_version"] for line in read_lines(table)} - {own})
    return f" (of method version {', '.join(others)}; this study is of {own})" if others else ""


def _assigned(tuned: Tuned, values: Values) -> str:
    return " ".join(f"{key}={value}" for key, value in zip(tuned.keys, values, strict=True))


def _of(line: dict[str, str], keys: list[str]) -> Values:
    return tuple(line[key] for key in keys)


def _values(config: Config, keys: list[str]) -> Values:
    fields = config.dump()
    return tuple(show_value(get_key(fields, key)) for key in keys)
