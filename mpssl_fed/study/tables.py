"""The tables of a study: comparison, cost, cells and failures."""

from __future__ import annotations

from collections.abc import Sequence

from mpssl_fed.report.table import NOTHING, Table, TableCell, TableRow, make_table
from mpssl_fed.study.analysis import Arm, Asked, Cost
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.keys import show_value
from mpssl_fed.study.results import Row, column_names
from mpssl_fed.study.statistics import Comparison, Estimate

METRICS = {"accuracy": "accuracy (%)", "best": "best accuracy (%)", "loss": "loss"}
DIFFERENCE = ("difference", "p", "p, corrected", "verdict")


def comparison_table(outcome: Outcome, arms: Sequence[Arm]) -> Table:
    """Return one line per arm: mean with its 95 % interval, n, paired difference from the baseline, corrected p, verdict."""
    keys, metric = outcome.plan.keys, outcome.plan.study.metric
    names = column_names(keys)
    lines = []
    for arm in arms:
        settings = [show_value(arm.settings[key]) for key in keys]
        lines.append([*settings, _estimate(arm.mean, metric), str(arm.mean.n if arm.mean else 0), *_difference(arm, metric)])
    columns = [*names, METRICS[metric], "n", *DIFFERENCE]
    table = make_table(columns, lines, [*names, "verdict"])
    kinds = ["baseline" if arm.is_baseline else "" for arm in arms]
    rows = tuple(TableRow(row.cells, kind) for row, kind in zip(table.rows, kinds, strict=True))
    return Table(table.columns, table.numeric, rows)


def asked_table(asked: Sequence[Asked], metric: str) -> Table:
    """Return one line per comparison that the study asks for, as :func:`comparison_table` shows those with the baseline."""
    lines = [[one.arm.label, one.against.label, *_compared(one.comparison, metric)] for one in asked]
    return make_table(["arm", "against", "n", *DIFFERENCE], lines, ["arm", "against", "verdict"])


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
    names = column_names(outcome.plan.keys)
    lines: list[list[str | TableCell]] = []
    for row in outcome.ordered:
        folder = outcome.folder(row)
        here = (folder / "report.html").is_file()
        link = TableCell(folder.name, link=f"cells/{folder.name}/report.html") if here else TableCell(row.config_sha256[:12])
        settings = [show_value(row.settings[key]) for key in outcome.plan.keys]
        measured = [_percent(row.accuracy), _percent(row.best), _number(row.loss, 3), _number(row.seconds)]
        lines.append([link, *settings, str(row.seed), row.status, *measured])
    columns = ["cell", *names, "seed", "status", METRICS["accuracy"], METRICS["best"], METRICS["loss"], "s"]
    return make_table(columns, lines, ["cell", "status", *names])


def failures_table(failed: Sequence[Row], outcome: Outcome) -> Table:
    """Return what went wrong in which cell."""
    names = column_names(outcome.plan.keys)
    lines: list[list[str | TableCell]] = [
        [*[show_value(row.settings[key]) for key in outcome.plan.keys], str(row.seed), TableCell(row.error or "", "text")]
        for row in failed
    ]
    return make_table([*names, "seed", "what went wrong"], lines, [*names, "what went wrong"])


def _estimate(value: Estimate | None, metric: str, sign: str = "") -> str:
    if value is None:
        return NOTHING
    scale, digits = (1, 3) if metric == "loss" else (100, 1)
    half = f" ± {scale * value.half:.{digits}f}" if value.half is not None else ""
    return f"{scale * value.mean:{sign}.{digits}f}{half}"


def _difference(arm: Arm, metric: str) -> list[str | TableCell]:
    if arm.is_baseline:
        return ["", "", "", TableCell("baseline")]
    if arm.comparison is None:
        return [NOTHING, NOTHING, NOTHING, TableCell("no baseline to compare with")]
    return _compared(arm.comparison, metric)[1:]


def _compared(comparison: Comparison | None, metric: str) -> list[str | TableCell]:
    """Return number of pairs, difference, p, corrected p and verdict."""
    if comparison is None:
        return ["0", NOTHING, NOTHING, NOTHING, TableCell("not finished")]
    verdict = comparison.verdict
    return [
        str(comparison.difference.n),
        _estimate(comparison.difference, metric, "+"),
        _p(comparison.p),
        _p(comparison.p_holm),
        TableCell(verdict, verdict if verdict in ("better", "worse") else ""),
    ]


def _p(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
