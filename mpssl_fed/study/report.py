"""The report of a study: ``report.html`` (one file, no network), ``results.csv``, ``results.md`` and the plots beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.page import write_page
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.report.run_sections import run_sections
from mpssl_fed.report.table import Table, seconds_words, to_markdown
from mpssl_fed.report.terms import COST, DIAGNOSIS, GAIN, GATE, KEYS, LEARNING, PARETO, RUN, STUDY, Terms, setting_terms
from mpssl_fed.runs.reader import RunReader
from mpssl_fed.study import plots
from mpssl_fed.study.analysis import LABELS_KEY, Analysis, Arm, analyse, best_arm, costs_of, hue_key
from mpssl_fed.study.declared import late_words
from mpssl_fed.study.diagnosis_sections import study_diagnosis
from mpssl_fed.study.featured import featured
from mpssl_fed.study.finding import study_finding
from mpssl_fed.study.folder import STUDY_FILE, Outcome, cell_folder, read_outcome
from mpssl_fed.study.grid import arm_of, label, load_study
from mpssl_fed.study.keys import show_value
from mpssl_fed.study.pareto import pareto_figures, pareto_sections
from mpssl_fed.study.results import column_names, write_csv
from mpssl_fed.study.tables import (
    METRICS,
    asked_table,
    cells_table,
    comparison_table,
    cost_table,
    failures_table,
    more_baselines,
    primary_table,
)
from mpssl_fed.study.tuned import settings_words


def write_report(folder: str | Path) -> Path:
    """Build ``report.html`` of the run or study in ``folder`` anew and return its path; UserError when it is neither."""
    folder = Path(folder)
    if (folder / STUDY_FILE).is_file():
        return write_study_report(read_outcome(load_study(folder / "study.yaml"), folder))
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: neither a run (no config.yaml) nor a study (no study.yaml); give the folder of one")
    return write_run_report(folder)


COMPARISON_NOTE = (
    "Mean over seeds ± half of the 95 % t-interval. Differences are paired by seed against the baseline with the same other "
    "settings; p is of the paired t-test. Exploratory comparisons were not declared before the run: q is their "
    "Benjamini-Hochberg value over all of them; of those below 0.05 about one in twenty is false. A difference is called within "
    "noise when q, or the corrected p of a primary one, is 0.05 or more, or with fewer than 3 pairs."
)
PRIMARY, PRIMARY_NOTE = (
    "Primary comparisons",
    (
        "Declared in the study file before the run, and corrected by Holm's method among themselves alone: the chance that any of "
        "them is called better or worse by luck is at most 5 %."
    ),
)
RULE_NOTE = (
    " Seeds were added until half of an interval was at most {halfwidth}, from {least} to at most {most}. How many follows from "
    "the spread of the first {least} differences, not from their sign or size, and the interval and p use that spread (Stein "
    "1945), so they hold whatever it was."
)

ASKED = "Comparisons that this study asks for"

COST_NOTE = (
    "A step is one optimiser step at one site. Times are wall clock of the machine that ran the cells, which share it, so "
    "compare them within this table alone. CPU time covers the whole cell, evaluation included. Peak memory is of the whole "
    "process, libraries included."
)


def write_study_report(outcome: Outcome) -> Path:
    """Write the report and its tables from the rows and, where they are here, the run directories; return the page's path."""
    output, study = outcome.output, outcome.plan.study
    found = analyse(outcome)
    arms = found.arms
    comparison = comparison_table(outcome, found)
    costs = cost_table(costs_of(outcome, arms), study.target_accuracy)
    write_csv(output / "results.csv", outcome.ordered, outcome.plan.keys)
    title = study.title or f"Study {outcome.plan.name}"
    private = pareto_sections(outcome, arms)
    finding, pairs = study_finding(outcome, found), comparison_sections(outcome, found)
    _write_markdown(outcome, title, finding, comparison, costs, pairs, private)
    chosen = featured(outcome, arms)
    run = None if chosen is None else run_sections(RunReader(cell_folder(output, chosen.cell)), output / "plots" / "run")
    diagnosis = study_diagnosis(outcome, arms)
    return write_page(
        output / "report.html",
        "study.html",
        title=title,
        subtitle=study.note,
        finding=finding,
        facts=_facts(outcome, arms),
        warning=_warning(outcome),
        settings=settings_words(outcome.plan),
        primary=[section for section in pairs if section["title"] == PRIMARY],
        comparison=comparison,
        comparison_note=COMPARISON_NOTE,
        pairs=[section for section in pairs if section["title"] != PRIMARY],
        figures=[*pareto_figures(outcome, arms), *_figures(outcome, arms)],
        cost=costs,
        cost_note=COST_NOTE,
        run=run,
        run_label=f"{chosen.cell.label}, seed {chosen.cell.seed}" if chosen is not None else "",
        run_note=chosen.note if chosen is not None else "",
        extra=[*private, *diagnosis],
        terms=_terms(outcome, bool(private), bool(diagnosis)),
        failures=failures_table(outcome.failed, outcome) if outcome.failed else None,
        cells=cells_table(outcome),
        study=(output / STUDY_FILE).read_text(encoding="utf-8"),
        manifest=_a_manifest(outcome),
    )


def comparison_sections(outcome: Outcome, found: Analysis) -> list[dict[str, Any]]:
    """Return the tables of arms against arms as sections: the primary ones first, then further baselines, then those asked for."""
    study, sections = outcome.plan.study, []
    if found.primary:
        note = PRIMARY_NOTE
        if study.rule is not None:
            scale, unit = (1, "") if study.metric == "loss" else (100, " points")
            note += RULE_NOTE.format(**study.rule.model_dump() | {"halfwidth": f"{scale * study.rule.halfwidth:g}{unit}"})
        sections.append({"title": PRIMARY, "note": note, "table": primary_table(found, study.metric)})
    sections += [{"title": title, "note": "", "table": table} for title, table in more_baselines(outcome, found)]
    if found.asked:
        sections.append({"title": ASKED, "note": "", "table": asked_table(found.asked, found, study.metric)})
    return sections


def _facts(outcome: Outcome, arms: Sequence[Arm]) -> list[tuple[str, str]]:
    seconds = sum(row.seconds or 0.0 for row in outcome.finished)
    study, counts = outcome.plan.study, [arm.mean.n for arm in arms if arm.mean is not None]
    top = best_arm(arms, study)
    seeds = f"{min(counts)} to {max(counts)}" if study.rule is not None and counts else str(len(study.common_seeds))
    return [
        ("cells", f"{len(outcome.finished)} of {len(outcome.due)}"),
        ("arms", str(len(arms))),
        ("seeds", seeds),
        ("evaluated on", _held_out(outcome)),
        *([("best mean", top.label)] if top is not None else []),
        ("time in runs", seconds_words(seconds)),
        *([("method version", str(study.method_version))] if study.method_version is not None else []),
    ]


def _warning(outcome: Outcome) -> str:
    missing = sum(cell.sha256 not in outcome.rows for cell in outcome.due)
    words = []
    if outcome.failed:
        words.append(f"{_cells(len(outcome.failed))} failed, see below; an arm with one has fewer seeds.")
    if missing:
        words.append(f"{_cells(missing)} not run yet; the same command goes on.")
    return " ".join([*words, *([said] if (said := late_words(outcome.plan, outcome.output)) else [])])


def _held_out(outcome: Outcome) -> str:
    """Return what the cells were evaluated on: test, validation, or held-out where cells differ."""
    kinds = {cell.config.data.held_out for cell in outcome.plan.cells}
    return kinds.pop() if len(kinds) == 1 else "held-out"


def _cells(n: int) -> str:
    return f"{n} cell{'s' if n != 1 else ''}"


def _figures(outcome: Outcome, arms: Sequence[Arm]) -> list[dict[str, str]]:
    study, folder = outcome.plan.study, outcome.output / "plots"
    done = [arm for arm in arms if arm.rows]
    if not done:
        return []
    scale = 1 if study.metric == "loss" else 100
    hue = hue_key(outcome)
    groups: dict[str, dict[str, list[float]]] = {}
    for arm in done:
        values = [scale * row.value(study.metric) for row in arm.rows]
        groups.setdefault(_without(outcome, arm, hue), {})[show_value(arm.settings[hue])] = values
    name = METRICS[study.metric]
    name = name[0].upper() + name[1:]
    held_out = _held_out(outcome).capitalize()
    figures = [
        {
            "title": "All arms",
            "svg": plots.intervals(folder, groups, f"{held_out} {name.lower()}"),
            "caption": "Mean over seeds with 95 % interval; small dots are seeds.",
        }
    ]
    by_labels = _against_labels(outcome, done, hue, study.metric, scale)
    if by_labels:
        svg = plots.series_panels(
            folder, "labels-per-class", by_labels, "Labelled images per class", f"{held_out} {name.lower()}", log_x=True
        )
        figures.append({"title": "Against the number of labels", "svg": svg, "caption": "Bands are 95 % intervals over seeds."})
    curves = _curves(outcome, done, hue)
    if curves:
        svg = plots.series_panels(folder, "learning", curves, "Round", f"{held_out} accuracy (%)")
        figures.append({"title": "Learning curves", "svg": svg, "caption": "Mean over seeds; bands are 95 % intervals."})
    return figures


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


def _a_manifest(outcome: Outcome) -> str:
    for row in outcome.finished:
        manifest = RunReader(outcome.folder(row)).manifest
        if manifest:
            return json.dumps(manifest, indent=2)
    return ""


def _terms(outcome: Outcome, private: bool, diagnosed: bool) -> Terms:
    """Return the terms of the page, those of a private study's sections and of the diagnosis where they stand on it."""
    configs = {arm_of(cell.settings): cell.config for cell in reversed(outcome.plan.cells)}
    keys = outcome.plan.columns
    known = [(name, KEYS.get(key, f"The config key {key}.")) for key, name in zip(keys, column_names(keys), strict=True)]
    of_settings = setting_terms(config.dump() for config in reversed(configs.values()))
    found = [*known, *STUDY.items(), *LEARNING.items(), *of_settings, *COST.items(), *RUN.items()]
    return list(
        dict([*found, *(PARETO.items() if private else ()), *((DIAGNOSIS | GAIN | GATE).items() if diagnosed else ())]).items()
    )


def _write_markdown(
    outcome: Outcome,
    title: str,
    finding: str,
    comparison: Table,
    costs: Table,
    pairs: Sequence[dict[str, Any]],
    more: Sequence[dict[str, Any]],
) -> None:
    from mpssl_fed.files import write_atomic

    parts = [f"# {title}", finding, outcome.plan.study.note or "", settings_words(outcome.plan), _warning(outcome)]
    first = [section for section in pairs if section["title"] == PRIMARY]
    for section in first:
        parts += [f"## {PRIMARY}", to_markdown(section["table"]), section["note"], "## All arms"]
    parts += [to_markdown(comparison), COMPARISON_NOTE]
    for section in (section for section in pairs if section not in first):
        parts += [f"## {section['title']}", to_markdown(section["table"])]
    parts += ["## Cost", to_markdown(costs), COST_NOTE]
    for section in more:
        parts += [f"## {section['title']}", section["note"], to_markdown(section["table"])]
    write_atomic(outcome.output / "results.md", "\n\n".join(part.strip() for part in parts if part) + "\n")
