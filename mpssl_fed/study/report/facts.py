"""What the report of a study says beside its tables: the numbers on top, what is missing, the terms, a manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mpssl_fed.report.table import seconds_words
from mpssl_fed.report.terms import COST, DIAGNOSIS, GAIN, GATE, KEYS, LEARNING, METRICS, PARETO, RUN, STUDY, Terms, setting_terms
from mpssl_fed.runs.reader import RunReader
from mpssl_fed.study.arms import Arm, best_arm
from mpssl_fed.study.declared import late_words
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.grid import arm_of
from mpssl_fed.study.report.figures import held_out
from mpssl_fed.study.result_table import column_names


def facts(outcome: Outcome, arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Return (name, value) of the numbers at the top of the page."""
    seconds = sum(row.seconds or 0.0 for row in outcome.finished)
    study, counts = outcome.plan.study, [arm.mean.n for arm in arms if arm.mean is not None]
    top = best_arm(arms, study)
    seeds = f"{min(counts)} to {max(counts)}" if study.rule is not None and counts else str(len(study.common_seeds))
    return [
        ("cells", f"{len(outcome.finished)} of {len(outcome.due)}"),
        ("arms", str(len(arms))),
        ("seeds", seeds),
        ("evaluated on", held_out(outcome)),
        *([("best mean", top.label)] if top is not None else []),
        ("time in runs", seconds_words(seconds)),
        *([("method version", str(study.method_version))] if study.method_version is not None else []),
    ]


def warning(outcome: Outcome) -> str:
    """Return what is to be known before the numbers: failed cells, missing ones, comparisons named too late; "" if nothing."""
    missing = sum(cell.sha256 not in outcome.rows for cell in outcome.due)
    words = []
    if outcome.failed:
        words.append(f"{_cells(len(outcome.failed))} failed, see below; an arm with one has fewer seeds.")
    if missing:
        words.append(f"{_cells(missing)} not run yet; the same command goes on.")
    return " ".join([*words, *([said] if (said := late_words(outcome.plan, outcome.output)) else [])])


def _cells(n: int) -> str:
    return f"{n} cell{'s' if n != 1 else ''}"


def a_manifest(outcome: Outcome) -> str:
    """Return the manifest of the first run directory that is here, as JSON; "" without one."""
    for row in outcome.finished:
        manifest = RunReader(outcome.folder(row)).manifest
        if manifest:
            return json.dumps(manifest, indent=2)
    return ""


def terms(outcome: Outcome, private: bool, diagnosed: bool) -> Terms:
    """Return the terms of the page, those of a private study's sections and of the diagnosis where they stand on it."""
    configs = {arm_of(cell.settings): cell.config for cell in reversed(outcome.plan.cells)}
    keys = outcome.plan.columns
    known = [(name, KEYS.get(key, f"The config key {key}.")) for key, name in zip(keys, column_names(keys), strict=True)]
    of_settings = setting_terms(config.dump() for config in reversed(configs.values()))
    found = [*known, *STUDY.items(), *METRICS.items(), *LEARNING.items(), *of_settings, *COST.items(), *RUN.items()]
    return list(
        dict([*found, *(PARETO.items() if private else ()), *((DIAGNOSIS | GAIN | GATE).items() if diagnosed else ())]).items()
    )
