"""The tables of a study: comparison, cost, cells and failures."""

from __future__ import annotations

from collections.abc import Sequence

from mpssl_fed.report.table import NOTHING, Table, TableCell, TableRow, make_table
from mpssl_fed.study.analysis import Analysis, Asked, Cost, Versus
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.keys import label, show_value
from mpssl_fed.study.results import Row, column_names
from mpssl_fed.study.statistics import Comparison, Estimate

Families = tuple[bool, bool]
"""Whether a table holds primary comparisons, and exploratory ones."""

METRICS = {"accuracy": "accuracy (%)", "best": "best accuracy (%)", "loss": "loss"}


def comparison_table(outcome: Outcome, found: Analysis) -> Table:
    """Return one line per arm: mean with its 95 % interval, n, paired difference from the first baseline, p, verdict."""
    keys, metric = outcome.plan.columns, outcome.plan.study.metric
    names, family = column_names(keys), _families(found)
    lines = []
    for arm in found.arms:
        settings = [show_value(arm.settings[key]) for key in keys]
        first = arm.versus[0] if arm.versus else None
        lines.append(
            [*settings, _estimate(arm.mean, metric), str(arm.mean.n if arm.mean else 0), *_difference(first, metric, family)]
        )
    columns = [*names, METRICS[metric], "n", *_columns(family)]
    table = make_table(columns, lines, [*names, "verdict"])
    kinds = ["baseline" if arm.versus and arm.versus[0].itself else "" for arm in found.arms]
    rows = tuple(TableRow(row.cells, kind) for row, kind in zip(table.rows, kinds, strict=True))
    return Table(table.columns, table.numeric, rows)


def more_baselines(outcome: Outcome, found: Analysis) -> list[tuple[str, Table]]:
    """Return (title, table) of each baseline but the first: one line per arm that is compared with it."""
    metric, family = outcome.plan.study.metric, _families(found)
    tables = []
    for number, baseline in list(enumerate(outcome.plan.study.baseline))[1:]:
        lines = [
            [arm.label, str(one.against), *_compared(one.comparison, metric, family)]
            for arm in found.arms
            if not (one := arm.versus[number]).itself and one.against is not None
        ]
        tables.append((f"Against {label(baseline)}", _pairs_table(lines, family)))
    return tables


def asked_table(asked: Sequence[Asked], found: Analysis, metric: str) -> Table:
    """Return one line per comparison that the study names, as :func:`comparison_table` shows those with the baseline."""
    family = _families(found)
    lines = [[one.arm.label, one.against.label, *_compared(one.comparison, metric, family)] for one in asked]
    return _pairs_table(lines, family)


def primary_table(found: Analysis, metric: str) -> Table:
    """Return one line per primary comparison; in a study that adds seeds also why each got no more of them."""
    lines = [[one.arm.label, one.against.label, *_compared(one.comparison, metric, (True, False))] for one in found.primary]
    columns, words = ["arm", "against", "n", *_columns((True, False))], ["arm", "against", "verdict"]
    if any(one.wanted is not None for one in found.primary):
        lines = [[*line, _seeds(one)] for line, one in zip(lines, found.primary, strict=True)]
        columns, words = [*columns, "seeds"], [*words, "seeds"]
    return make_table(columns, lines, words)


def _seeds(one: Asked) -> str:
    n = one.comparison.difference.n if one.comparison is not None else 0
    if one.wanted is None or one.wanted.why == "first stage not finished" or n >= one.wanted.n:
        return one.wanted.why if one.wanted is not None else ""
    return f"{one.wanted.n} wanted"


def _pairs_table(lines: Sequence[Sequence[str | TableCell]], family: Families) -> Table:
    return make_table(["arm", "against", "n", *_columns(family)], lines, ["arm", "against", "verdict"])


def _families(found: Analysis) -> Families:
    return bool(found.primary), bool(found.exploratory) or not found.primary


def _columns(family: Families) -> list[str]:
    return ["difference", "p", *["p, corrected"] * family[0], *["q"] * family[1], "verdict"]


def cost_table(costs: Sequence[Cost], target: float | None) -> Table:
    """Return what each arm costs per local step and as a whole."""
    columns = [
        "arm", "ms per step", "of it generating", "CPU ms per step", "generator images per step", "peak memory (MB)", "s per run",
    ]  # fmt: skip
    lines = [
        [
            cost.label,
            _number(cost.step_ms),
            _number(cost.generate_ms),
            _number(cost.cpu_ms),
            _number(cost.images_per_step),
            _number(cost.peak_memory_mb, 0),
            _number(cost.seconds),
        ]
        for cost in costs
    ]
    if target is not None:
        columns.append(f"s to {100 * target:g} %")
        for line, cost in zip(lines, costs, strict=True):
            line.append(f"{_number(cost.seconds_to_target)} ({cost.reached} of {cost.n})")
    measured = [n for n in range(len(columns)) if not lines or any(line[n] != NOTHING for line in lines)]
    return make_table([columns[n] for n in measured], [[line[n] for n in measured] for line in lines], ["arm"])


def cells_table(outcome: Outcome) -> Table:
    """Return one line per cell, with a link to its own report where it was run here."""
    names = column_names(outcome.plan.columns)
    lines: list[list[str | TableCell]] = []
    for row in outcome.ordered:
        folder = outcome.folder(row)
        here = (folder / "report.html").is_file()
        link = TableCell(folder.name, link=f"cells/{folder.name}/report.html") if here else TableCell(row.config_sha256[:12])
        settings = [show_value(row.settings[key]) for key in outcome.plan.columns]
        measured = [_percent(row.accuracy), _percent(row.best), _number(row.loss, 3), _number(row.seconds)]
        lines.append([link, *settings, str(row.seed), row.status, *measured])
    columns = ["cell", *names, "seed", "status", METRICS["accuracy"], METRICS["best"], METRICS["loss"], "s"]
    return make_table(columns, lines, ["cell", "status", *names])


def failures_table(failed: Sequence[Row], outcome: Outcome) -> Table:
    """Return what went wrong in which cell."""
    names = column_names(outcome.plan.columns)
    lines: list[list[str | TableCell]] = [
        [*[show_value(row.settings[key]) for key in outcome.plan.columns], str(row.seed), TableCell(row.error or "", "text")]
        for row in failed
    ]
    return make_table([*names, "seed", "what went wrong"], lines, [*names, "what went wrong"])


def _estimate(value: Estimate | None, metric: str, sign: str = "") -> str:
    if value is None:
        return NOTHING
    scale, digits = (1, 3) if metric == "loss" else (100, 1)
    half = f" ± {scale * value.half:.{digits}f}" if value.half is not None else ""
    return f"{scale * value.mean:{sign}.{digits}f}{half}"


def _difference(one: Versus | None, metric: str, family: Families) -> list[str | TableCell]:
    blanks = len(_columns(family)) - 1
    if one is not None and one.itself:
        return [*[""] * blanks, TableCell("baseline")]
    if one is None or one.against is None:
        return [*[NOTHING] * blanks, TableCell("no baseline to compare with")]
    return _compared(one.comparison, metric, family)[1:]


def _compared(comparison: Comparison | None, metric: str, family: Families) -> list[str | TableCell]:
    """Return number of pairs, difference, p, p corrected or q in its column, and verdict."""
    if comparison is None:
        return ["0", *[NOTHING] * (len(_columns(family)) - 1), TableCell("not finished")]
    corrected = [_p(comparison.corrected) if comparison.primary else ""] * family[0]
    corrected += ["" if comparison.primary else _p(comparison.corrected)] * family[1]
    words = comparison.verdict if comparison.primary else f"{comparison.verdict}, exploratory"
    return [
        str(comparison.difference.n),
        _estimate(comparison.difference, metric, "+"),
        _p(comparison.p),
        *corrected,
        TableCell(words, comparison.verdict if comparison.differs else ""),
    ]


def _p(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
