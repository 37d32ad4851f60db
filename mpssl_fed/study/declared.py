"""When a comparison was named primary: before its seeds had run, as it must be, or after.

``primary.json`` in a study's folder holds each primary comparison that a run of the study has found in its file, and how many seeds
both arms had finished then. A comparison chosen because of its result is no proof, so the report tells those that came late, and
those that were primary once and are no longer: fewer of them make Holm's correction milder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.files import write_json
from mpssl_fed.method_version import METHOD_VERSION
from mpssl_fed.runs.reader import read_json
from mpssl_fed.study.cell_key import cell_key
from mpssl_fed.study.grid import Plan, arm_of
from mpssl_fed.study.keys import label
from mpssl_fed.study.results import Row
from mpssl_fed.study.selection import Pair

DECLARED = "primary.json"


@dataclass(frozen=True)
class Declared:
    """A primary comparison as a run of the study first found it. arms: their keys, whatever the seed; finished: seeds of both."""

    metric: str
    arms: tuple[str, ...]
    finished: int

    @property
    def asks(self) -> tuple[str, frozenset[str]]:
        """What it asks, whichever of its arms stands first."""
        return self.metric, frozenset(self.arms)


def declare(plan: Plan, output: Path, rows: Mapping[str, Row]) -> None:
    """Add the study's primary comparisons to those that its folder knows; rows (cell key -> row) are those of its folder."""
    known, keys = read_declared(output), _keys(plan)
    seen = {one.asks for one in known}
    seeds: dict[str, set[int]] = {}
    for cell in plan.cells:
        row = rows.get(cell.sha256)
        if row is not None and row.finished:
            seeds.setdefault(arm_of(cell.settings), set()).add(cell.seed)
    for one, other in plan.primary():
        new = Declared(plan.study.metric, (keys[one], keys[other]), len(seeds.get(one, set()) & seeds.get(other, set())))
        if new.asks not in seen:
            known.append(new)
    if len(known) > len(seen):
        fields = [{"metric": one.metric, "arms": list(one.arms), "finished": one.finished} for one in known]
        write_json(output / DECLARED, {"primary": fields})


def read_declared(output: Path) -> list[Declared]:
    """Return what :func:`declare` has written, each once; UserError for a file that it did not write."""
    file = output / DECLARED
    if not file.is_file():
        return []
    try:
        found = [_declared(fields) for fields in read_json(file)["primary"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: damaged ({error!r}); it says when a comparison became primary, so bring its copy back") from error
    return list({one.asks: one for one in reversed(found)}.values())[::-1]


def _declared(fields: Any) -> Declared:
    metric, arms, finished = fields["metric"], fields["arms"], fields["finished"]
    if (
        not isinstance(metric, str)
        or len(arms) != 2
        or not all(isinstance(arm, str) for arm in arms)
        or not isinstance(finished, int)
    ):
        raise TypeError("of another type")
    return Declared(metric, tuple(arms), finished)


def late_words(plan: Plan, output: Path) -> str:
    """Return which primary comparisons were not declared before the run, and which no longer are; "" where all were and are."""
    declared = [one for one in read_declared(output) if one.metric == plan.study.metric]
    keys = _keys(plan)
    names = {key: name for name, key in keys.items()}
    pairs: dict[frozenset[str], Pair] = {frozenset((keys[one], keys[other])): (one, other) for one, other in plan.primary()}
    late = [(pairs[arms], one.finished) for one in declared if one.finished and (arms := one.asks[1]) in pairs]
    gone = [one.arms for one in declared if one.asks[1] not in pairs and one.asks[1] <= names.keys()]
    said = [
        f"{_labels(plan, pair)} was made a primary comparison when {finished} of its seeds had finished, not before it was "
        "run: take it as exploratory."
        for pair, finished in late
    ]
    said += [
        f"{_labels(plan, (names[first], names[second]))} was a primary comparison before, and is none now."
        for first, second in gone
    ]
    return " ".join(said)


def _labels(plan: Plan, pair: Pair) -> str:
    arms = plan.arms()
    one, other = (label(plan.telling(arms[name])) for name in pair)
    return f"{one} against {other}"


def _keys(plan: Plan) -> dict[str, str]:
    """Return arm -> its key whatever its seed, and whatever else is in the study's grid."""
    firsts = {arm_of(cell.settings): cell for cell in reversed(plan.cells)}
    version = plan.study.method_version or METHOD_VERSION
    return {name: cell_key(firsts[name].config.model_copy(update={"seed": 0}), version)[:12] for name in plan.arms()}
