"""The figures of every study: all arms, accuracy against labels, learning curves."""

from __future__ import annotations

from collections.abc import Sequence

from mpssl_fed.study.analysis import LABELS_KEY, hue_key
from mpssl_fed.study.arms import Arm
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import label
from mpssl_fed.study.headline import unit_of
from mpssl_fed.study.keys import show_value
from mpssl_fed.study.report import plots
from mpssl_fed.study.report.compared import METRICS


def held_out(outcome: Outcome) -> str:
    """Return what the cells were evaluated on: test, validation, or held-out where cells differ."""
    kinds = {cell.config.data.held_out for cell in outcome.plan.cells}
    return kinds.pop() if len(kinds) == 1 else "held-out"


def figures(outcome: Outcome, arms: Sequence[Arm]) -> list[dict[str, str]]:
    """Return title, SVG and caption of each figure; none before an arm has a seed."""
    study, folder = outcome.plan.study, outcome.output / "plots"
    done = [arm for arm in arms if arm.rows]
    if not done:
        return []
    scale = unit_of(study.metric)[0]
    hue = hue_key(outcome)
    groups: dict[str, dict[str, list[float]]] = {}
    for arm in done:
        values = [scale * row.value(study.metric) for row in arm.rows]
        groups.setdefault(_without(outcome, arm, hue), {})[show_value(arm.settings[hue])] = values
    name = METRICS[study.metric]
    name = name[0].upper() + name[1:]
    evaluated = held_out(outcome).capitalize()
    shown = [
        {
            "title": "All arms",
            "svg": plots.intervals(folder, groups, f"{evaluated} {name.lower()}"),
            "caption": "Mean over seeds with 95 % interval; small dots are seeds.",
        }
    ]
    by_labels = _against_labels(outcome, done, hue, study.metric, scale)
    if by_labels:
        svg = plots.series_panels(
            folder, "labels-per-class", by_labels, "Labelled images per class", f"{evaluated} {name.lower()}", log_x=True
        )
        shown.append({"title": "Against the number of labels", "svg": svg, "caption": "Bands are 95 % intervals over seeds."})
    curves = _curves(outcome, done, hue)
    if curves:
        svg = plots.series_panels(folder, "learning", curves, "Round", f"{evaluated} accuracy (%)")
        shown.append({"title": "Learning curves", "svg": svg, "caption": "Mean over seeds; bands are 95 % intervals."})
    return shown


def _without(outcome: Outcome, arm: Arm, *keys: str) -> str:
    return label({key: value for key, value in outcome.plan.telling(arm.settings).items() if key not in keys})


def _against_labels(
    outcome: Outcome, arms: Sequence[Arm], hue: str, metric: str, scale: int
) -> dict[str, dict[str, list[tuple[float, list[float]]]]]:
    """Return the points of accuracy against labels per class; empty unless the study varies them."""
    if len({arm.settings.get(LABELS_KEY) for arm in arms if arm.settings.get(LABELS_KEY)}) < 2 or hue == LABELS_KEY:
        return {}
    panels: dict[str, dict[str, list[tuple[float, list[float]]]]] = {}
    for arm in sorted((arm for arm in arms if arm.settings[LABELS_KEY]), key=lambda arm: arm.settings[LABELS_KEY]):
        series = panels.setdefault(_without(outcome, arm, hue, LABELS_KEY), {}).setdefault(show_value(arm.settings[hue]), [])
        series.append((arm.settings[LABELS_KEY], [scale * row.value(metric) for row in arm.rows]))
    return panels


def _curves(outcome: Outcome, arms: Sequence[Arm], hue: str) -> dict[str, dict[str, list[tuple[float, list[float]]]]]:
    """Return accuracy by round of the arms whose rows hold it."""
    panels: dict[str, dict[str, list[tuple[float, list[float]]]]] = {}
    for arm in arms:
        by_round: dict[float, list[float]] = {}
        for row in arm.rows:
            for number, value, _ in row.rounds:
                by_round.setdefault(number, []).append(100 * value)
        if by_round:
            panels.setdefault(_without(outcome, arm, hue), {})[show_value(arm.settings[hue])] = list(by_round.items())
    return panels
