"""The tables of a study: comparison, cost, cells and failures."""

from __future__ import annotations

from collections.abc import Sequence

from mpssl_fed.report.table import Table, TableCell, TableRow, make_table
from mpssl_fed.study.analysis import Analysis
from mpssl_fed.study.arms import Asked
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.keys import label, show_value
from mpssl_fed.study.report.compared import (
    BESIDE,
    METRICS,
    Families,
    compared_cells,
    comparison_columns,
    difference_cells,
    estimate_words,
    families_of,
)
from mpssl_fed.study.result_table import column_names
from mpssl_fed.study.results import Row
from mpssl_fed.study.statistics import Estimate, estimate


def comparison_table(outcome: Outcome, found: Analysis) -> Table:
    """Return one line per arm: mean with its 95 % interval, n, paired difference from the first baseline, p, verdict."""
    keys, metric = outcome.plan.columns, outcome.plan.study.metric
    names, family, beside = column_names(keys), families_of(found), [BESIDE[metric]] if metric in BESIDE else []
    lines = []
    for arm in found.arms:
        settings = [show_value(arm.settings[key]) for key in keys]
        first = arm.versus[0] if arm.versus else None
        lines.append(
            [
                *settings,
                estimate_words(arm.mean, metric),
                *(estimate_words(_mean(arm.rows, other), other) for other in beside),
                str(arm.mean.n if arm.mean else 0),
                *difference_cells(first, metric, family),
            ]
        )
    columns = [*names, METRICS[metric], *(METRICS[other] for other in beside), "n", *comparison_columns(family)]
    table = make_table(columns, lines, [*names, "verdict"])
    kinds = ["baseline" if arm.versus and arm.versus[0].itself else "" for arm in found.arms]
    rows = tuple(TableRow(row.cells, kind) for row, kind in zip(table.rows, kinds, strict=True))
    return Table(table.columns, table.numeric, rows)


def more_baselines(outcome: Outcome, found: Analysis) -> list[tuple[str, Table]]:
    """Return (title, table) of each baseline but the first: one line per arm that is compared with it."""
    metric, family = outcome.plan.study.metric, families_of(found)
    tables = []
    for number, baseline in list(enumerate(outcome.plan.study.baseline))[1:]:
        lines = [
            [arm.label, str(one.against), *compared_cells(one.comparison, metric, family)]
            for arm in found.arms
            if not (one := arm.versus[number]).itself and one.against is not None
        ]
        tables.append((f"Against {label(baseline)}", _pairs_table(lines, family)))
    return tables


def asked_table(asked: Sequence[Asked], found: Analysis, metric: str) -> Table:
    """Return one line per comparison that the study names, as :func:`comparison_table` shows those with the baseline."""
    family = families_of(found)
    lines = [[one.arm.label, one.against.label, *compared_cells(one.comparison, metric, family)] for one in asked]
    return _pairs_table(lines, family)


def primary_table(found: Analysis, metric: str) -> Table:
    """Return one line per primary comparison; in a study that adds seeds also why each got no more of them."""
    lines = [[one.arm.label, one.against.label, *compared_cells(one.comparison, metric, (True, False))] for one in found.primary]
    columns, words = ["arm", "against", "n", *comparison_columns((True, False))], ["arm", "against", "verdict"]
    if any(one.wanted is not None for one in found.primary):
        lines = [[*line, _seeds(one)] for line, one in zip(lines, found.primary, strict=True)]
        columns, words = [*columns, "seeds"], [*words, "seeds"]
    return make_table(columns, lines, words)


def _mean(rows: Sequence[Row], metric: str) -> Estimate | None:
    values = [row.value(metric) for row in rows if row.has(metric)]
    return estimate(values) if values else None


def _seeds(one: Asked) -> str:
    n = one.comparison.difference.n if one.comparison is not None else 0
    if one.wanted is None or one.wanted.why == "first stage not finished" or n >= one.wanted.n:
        return one.wanted.why if one.wanted is not None else ""
    return f"{one.wanted.n} wanted"


def _pairs_table(lines: Sequence[Sequence[str | TableCell]], family: Families) -> Table:
    return make_table(["arm", "against", "n", *comparison_columns(family)], lines, ["arm", "against", "verdict"])
