"""The tables of what was measured: costs by arm, all cells, failures."""

from __future__ import annotations

from collections.abc import Sequence

from mpssl_fed.report.table import NOTHING, Table, TableCell, make_table
from mpssl_fed.study.folder import Outcome
from mpssl_fed.study.headline import OF_EVALUATION, unit_of
from mpssl_fed.study.keys import show_value
from mpssl_fed.study.report.compared import BESIDE, METRICS
from mpssl_fed.study.report.costs import Cost
from mpssl_fed.study.result_table import column_names
from mpssl_fed.study.results import Row


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
    metric = outcome.plan.study.metric
    alike = tuple(BESIDE) if metric in BESIDE else (metric,) if metric in OF_EVALUATION else ()
    lines: list[list[str | TableCell]] = []
    for row in outcome.ordered:
        folder = outcome.folder(row)
        here = (folder / "report.html").is_file()
        link = TableCell(folder.name, link=f"cells/{folder.name}/report.html") if here else TableCell(row.config_sha256[:12])
        settings = [show_value(row.settings[key]) for key in outcome.plan.columns]
        measured = [_percent(row.accuracy), _percent(row.best), _number(row.loss, 3), _number(row.seconds)]
        balanced = [_percent(getattr(row, name)) if unit_of(name)[0] == 100 else _number(getattr(row, name), 3) for name in alike]
        lines.append([link, *settings, str(row.seed), row.status, *balanced, *measured])
    shown = [METRICS[name] for name in (*alike, "accuracy", "best", "loss")]
    columns = ["cell", *names, "seed", "status", *shown, "s"]
    return make_table(columns, lines, ["cell", "status", *names])


def failures_table(failed: Sequence[Row], outcome: Outcome) -> Table:
    """Return what went wrong in which cell."""
    names = column_names(outcome.plan.columns)
    lines: list[list[str | TableCell]] = [
        [*[show_value(row.settings[key]) for key in outcome.plan.columns], str(row.seed), TableCell(row.error or "", "text")]
        for row in failed
    ]
    return make_table([*names, "seed", "what went wrong"], lines, [*names, "what went wrong"])


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _number(value: float | None, digits: int = 1) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
