"""The tables of arms against arms in the report of a study, with what is to be known of them."""

from __future__ import annotations

from typing import Any

from mpssl_fed.study.analysis import Analysis
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.headline import NO_SHARES
from mpssl_fed.study.report.tables import (
    asked_table,
    more_baselines,
    primary_table,
)

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


def comparison_sections(outcome: Outcome, found: Analysis) -> list[dict[str, Any]]:
    """Return the tables of arms against arms as sections: the primary ones first, then further baselines, then those asked for."""
    study, sections = outcome.plan.study, []
    if found.primary:
        note = PRIMARY_NOTE
        if study.rule is not None:
            scale, unit = (1, "") if study.metric in NO_SHARES else (100, " points")
            note += RULE_NOTE.format(**study.rule.model_dump() | {"halfwidth": f"{scale * study.rule.halfwidth:g}{unit}"})
        sections.append({"title": PRIMARY, "note": note, "table": primary_table(found, study.metric)})
    sections += [{"title": title, "note": "", "table": table} for title, table in more_baselines(outcome, found)]
    if found.asked:
        sections.append({"title": ASKED, "note": "", "table": asked_table(found.asked, found, study.metric)})
    return sections
