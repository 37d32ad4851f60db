"""The report of a study: ``report.html`` (one file, no network), ``results.csv``, ``results.md`` and the plots beside them."""

from __future__ import annotations

from pathlib import Path

from mpssl_fed.errors import UserError
from mpssl_fed.page import write_page
from mpssl_fed.report.run_report import write_run_report
from mpssl_fed.report.run_sections import run_sections
from mpssl_fed.runs.reader import RunReader, refuse_half_cleared
from mpssl_fed.study.analysis import analyse
from mpssl_fed.study.featured import featured
from mpssl_fed.study.folder import STUDY_FILE, Outcome, cell_folder, read_outcome
from mpssl_fed.study.grid import load_study
from mpssl_fed.study.report.cell_tables import cells_table, cost_table, failures_table
from mpssl_fed.study.report.costs import costs_of
from mpssl_fed.study.report.diagnosis import study_diagnosis
from mpssl_fed.study.report.facts import a_manifest, facts, terms, warning
from mpssl_fed.study.report.figures import figures
from mpssl_fed.study.report.finding import study_finding
from mpssl_fed.study.report.markdown import COST_NOTE, Told, write_markdown
from mpssl_fed.study.report.pareto import pareto_figures, pareto_sections
from mpssl_fed.study.report.sections import COMPARISON_NOTE, comparison_sections
from mpssl_fed.study.report.tables import comparison_table
from mpssl_fed.study.result_table import write_csv
from mpssl_fed.study.tuned import settings_words


def write_report(folder: str | Path) -> Path:
    """Build ``report.html`` of the run or study in ``folder`` anew and return its path; UserError when it is neither."""
    folder = Path(folder)
    if (folder / STUDY_FILE).is_file():
        return write_study_report(read_outcome(load_study(folder / "study.yaml"), folder))
    refuse_half_cleared(folder)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: neither a run (no config.yaml) nor a study (no study.yaml); give the folder of one")
    return write_run_report(folder)


def write_study_report(outcome: Outcome) -> Path:
    """Write the report and its tables from the rows and, where they are here, the run directories; return the page's path."""
    output, study = outcome.output, outcome.plan.study
    found = analyse(outcome)
    arms = found.arms
    told = Told(
        title=study.title or f"Study {outcome.plan.name}",
        finding=study_finding(outcome, found),
        comparison=comparison_table(outcome, found),
        pairs=comparison_sections(outcome, found),
        costs=cost_table(costs_of(outcome, arms), study.target_accuracy),
        private=pareto_sections(outcome, arms),
    )
    write_csv(output / "results.csv", outcome.ordered, outcome.plan.keys)
    write_markdown(outcome, told)
    chosen = featured(outcome, arms)
    run = None if chosen is None else run_sections(RunReader(cell_folder(output, chosen.cell)), output / "plots" / "run")
    diagnosis = study_diagnosis(outcome, arms)
    return write_page(
        output / "report.html",
        "study.html",
        title=told.title,
        subtitle=study.note,
        finding=told.finding,
        facts=facts(outcome, arms),
        warning=warning(outcome),
        settings=settings_words(outcome.plan),
        primary=told.primary,
        comparison=told.comparison,
        comparison_note=COMPARISON_NOTE,
        pairs=told.others,
        figures=[*pareto_figures(outcome, arms), *figures(outcome, arms)],
        cost=told.costs,
        cost_note=COST_NOTE,
        run=run,
        run_label=f"{chosen.cell.label}, seed {chosen.cell.seed}" if chosen is not None else "",
        run_note=chosen.note if chosen is not None else "",
        extra=[*told.private, *diagnosis],
        terms=terms(outcome, bool(told.private), bool(diagnosis)),
        failures=failures_table(outcome.failed, outcome) if outcome.failed else None,
        cells=cells_table(outcome),
        study=(output / STUDY_FILE).read_text(encoding="utf-8"),
        manifest=a_manifest(outcome),
    )
