"""Which arms of a study some settings name: those to keep, to show, to compare with, to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpssl_fed.errors import UserError, nearest
from mpssl_fed.study.keys import Settings, label
from mpssl_fed.study.schema import Asked

Pair = tuple[str, str]
"""Names of two arms: one, and the one that it is compared with."""


def matches(settings: Settings, want: Settings) -> bool:
    """Whether the settings hold all that is wanted; of a list of values any will do, of a bundle of options those named count."""
    return all(key in settings and _accepts(settings[key], value) for key, value in want.items())


def _accepts(value: Any, want: Any) -> bool:
    if isinstance(want, list) and not isinstance(value, list):
        return any(_same(value, one) for one in want)
    return _same(value, want)


def _same(value: Any, want: Any) -> bool:
    if isinstance(value, Mapping) and isinstance(want, Mapping):
        return all(key in value and _same(value[key], option) for key, option in want.items())
    return bool(value == want) and isinstance(value, bool) == isinstance(want, bool)  # true is no 1 here


def check_selection(want: Settings | None, known: Sequence[Settings], where: str) -> None:
    """Raise UserError unless each key of ``want`` is one of the ``known`` settings and some of them match it."""
    if want is None:
        return
    for key in want:
        if key not in known[0]:
            raise UserError(f"{where}: '{key}' is no key of the grid.{nearest(key, known[0])} Keys: {', '.join(known[0])}")
    if not any(matches(settings, want) for settings in known):
        raise UserError(f"{where}: no cell has {label(want)}; change it or leave it out")


def check_baseline(baseline: Settings, known: Sequence[Settings], where: str) -> None:
    """Raise UserError unless some of the ``known`` settings match ``baseline``, with the same values for all of its keys."""
    check_selection(baseline, known, where)
    several = sorted({label({key: one[key] for key in baseline}) for one in known if matches(one, baseline)})
    if len(several) > 1:
        raise UserError(
            f"{where}: {label(baseline)} may be {' or '.join(several[:3])}; name one of them, or each as a baseline of its own"
        )


def check_kept(keep: Sequence[Settings], known: Sequence[Settings], where: str) -> None:
    """Raise UserError unless each item of ``keep``, and each value in it, is that of some of the ``known`` settings."""
    for item in keep:
        check_selection(item, known, where)
        for key, values in item.items():
            for value in values if isinstance(values, list) and not isinstance(known[0][key], list) else [values]:
                check_selection({**item, key: value}, known, where)


def sides(asked: Asked) -> tuple[Settings, Settings]:
    """Return the settings of both sides, those that they share included."""
    return {**asked.where, **asked.arm}, {**asked.where, **asked.against}


def is_there(asked: Asked, known: Sequence[Settings]) -> bool:
    """Whether both sides of a comparison name an arm."""
    return all(any(matches(settings, side) for settings in known) for side in sides(asked))


def asked_pairs(compare: Sequence[Asked], arms: Mapping[str, Settings], where: str) -> list[Pair]:
    """Return (arm, against) of each comparison that a study names, once.

    ``against`` is the only arm with its settings, else the one of them whose other settings are the arm's own. UserError
    where that leaves none or several.
    """
    pairs: dict[Pair, None] = {}
    for asked in compare:
        one, other = sides(asked)
        fits = [name for name, settings in arms.items() if matches(settings, other)]
        chosen = [name for name, own in arms.items() if matches(own, one)]
        found: dict[Pair, None] = {}
        for name in chosen:
            alike = [rival for rival in fits if _same_elsewhere(arms[rival], arms[name], asked.against)]
            against = fits if len(fits) == 1 else alike
            if len(against) != 1:
                number = "none" if not against else f"{len(against)}"
                raise UserError(
                    f"{where}: {len(fits)} arms have {label(asked.against)}, {number} with the other settings of "
                    f"'{label(arms[name])}'; name more keys under 'against', so that one is left"
                )
            if against[0] != name:
                found[name, against[0]] = None
        if not found:
            own = f"'{label(arms[chosen[0]])}'" if chosen else "no arm"
            raise UserError(f"{where}: {own} would be compared with itself alone; name another 'against'")
        pairs |= found
    return without_mirrored(list(pairs))


def check_each(asked: Asked, arms: Mapping[str, Settings], where: str) -> None:
    """Raise UserError unless each of several values that a comparison names is that of an arm that it compares."""
    compared = [arms[name] for pair in asked_pairs([asked], arms, where) for name in pair]
    for key, values in {**asked.where, **asked.arm}.items():
        if not isinstance(values, list) or any(isinstance(own[key], list) for own in compared):
            continue
        for value in values:
            if not any(matches(own, {key: value}) for own in compared):
                raise UserError(f"{where}: nothing is compared for {label({key: value})}; change it or leave it out")


def baseline_of(own: Settings, baseline: Settings, arms: Mapping[str, Settings]) -> str | None:
    """Return the arm whose settings are ``own`` with the baseline's in their place; None when the study has no such arm."""
    fits = (name for name, other in arms.items() if matches(other, baseline) and _same_elsewhere(other, own, baseline))
    return next(fits, None)


def without_mirrored(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs, each once, whichever of its arms stands first."""
    seen: dict[frozenset[str], Pair] = {}
    for pair in pairs:
        seen.setdefault(frozenset(pair), pair)
    return list(seen.values())


def _same_elsewhere(settings: Settings, own: Settings, besides: Settings) -> bool:
    return all(settings[key] == own[key] for key in own if key not in besides)
