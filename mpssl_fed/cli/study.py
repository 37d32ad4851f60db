"""The commands ``study`` and ``report``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mpssl_fed.cli.options import folder_given
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.study.grid import Plan, load_study

if TYPE_CHECKING:
    from mpssl_fed.study.folder import Outcome
    from mpssl_fed.study.results import Row

app = typer.Typer()


@app.command()
def study(
    file: Annotated[str, typer.Argument(help="Study file, or the name of a shipped one (demo).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.path=value: fixes a config key in every cell; key.path=[a,b]: compares values.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Cells at once; default: the file's.")] = None,
    executor: Annotated[str, typer.Option(help="processes, or ray: the cluster of RAY_ADDRESS, else a local one.")] = "processes",
    from_csv: Annotated[
        Path | None, typer.Option("--from", help="Take finished rows of this results table; run what is missing.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder of the study; default: the file's, else runs/STUDY.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Run finished cells again too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan; run nothing.")] = False,
) -> None:
    """Compare settings over seeds: run a grid of configs, then write report.html, results.csv and results.md.

    Finished cells are kept, so the same command goes on after a stop. Exit code 1: a cell failed; 130: stopped by Ctrl-C.
    """
    if executor not in ("processes", "ray"):
        raise UserError(f"--executor {executor}: unknown.{nearest(executor, ['processes', 'ray'])} Known: processes, ray")
    plan = load_study(file, overrides or [])
    folder = folder_given(output) or plan.folder()
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 200)
    if dry_run:
        _print_plan(plan, folder, from_csv, console)
        return

    from mpssl_fed.study.run import run_study
    from mpssl_fed.study.tuned import settings_words

    settings_words(plan)  # so that a table that cannot be read stops the study now, not its report at the end
    workers = workers or plan.study.workers
    code = _told(run_study(plan, folder, workers, executor, from_csv, overwrite), console)  # type: ignore[arg-type]
    if code:
        raise typer.Exit(code)


def _told(outcome: Outcome, console: Console) -> int:
    """Write the report of a study that was run, print its tables and return the exit code."""
    from mpssl_fed.report.table import to_terminal
    from mpssl_fed.runs.lock import holding
    from mpssl_fed.study.analysis import analyse
    from mpssl_fed.study.declared import late_words
    from mpssl_fed.study.report.finding import study_finding
    from mpssl_fed.study.report.page import write_study_report
    from mpssl_fed.study.report.sections import PRIMARY, comparison_sections
    from mpssl_fed.study.report.tables import comparison_table

    plan, folder = outcome.plan, outcome.output
    with holding(folder):
        page = write_study_report(outcome)
    found = analyse(outcome)
    tables = [(plan.study.title or f"Study {plan.name}", comparison_table(outcome, found))]
    for section in comparison_sections(outcome, found):
        tables.insert(0 if section["title"] == PRIMARY else len(tables), (section["title"], section["table"]))
    for title, table in tables:
        console.print()
        console.print(to_terminal(table, title))
    console.print(f"\n{study_finding(outcome, found)}", soft_wrap=True, markup=False)
    late = late_words(plan, folder)
    console.print(f"\n{late}\n{page}" if late else f"\n{page}", soft_wrap=True)
    if outcome.interrupted:
        console.print("Stopped; the same command goes on from here.")
        return 130
    if outcome.failed:
        console.print(f"{len(outcome.failed)} of {len(outcome.due)} cells failed; the report says why, {folder}/logs has the rest.")
        return 1
    return 0


def _print_plan(plan: Plan, folder: Path, from_csv: Path | None, console: Console) -> None:
    from mpssl_fed.study.folder import finished_rows, table_rows, taken_words
    from mpssl_fed.study.sequential import due

    done = finished_rows(plan, folder)
    if from_csv is not None:
        done = table_rows(plan, from_csv) | done
        console.print(taken_words(plan, from_csv), soft_wrap=True)
    arms, rule, common = len(plan.arms()), plan.study.rule, plan.study.common_seeds
    if rule is None:
        seeds = ", ".join(str(seed) for seed in common)
        console.print(f"{len(plan.cells)} cells: {arms} arms x {len(common)} seeds ({seeds}), into {folder}", soft_wrap=True)
    else:
        needed = len({name for pair in plan.primary() for name in pair})
        console.print(
            f"At least {len(plan.first)} cells, into {folder}: {needed} arms of primary comparisons x {rule.least} seeds, and "
            f"{arms - needed} other arms x {len(common)}",
            soft_wrap=True,
        )
        console.print(
            f"At most {len(plan.cells)} cells: the {needed} arms get up to {rule.most} seeds, until half of the interval of each "
            f"comparison is at most {rule.halfwidth:g}",
            soft_wrap=True,
        )
    left = sum(cell.sha256 not in done for cell in due(plan, done))
    most = sum(cell.sha256 not in done for cell in (plan.cells if _open(plan, done) else due(plan, done)))
    to_run = f"{left} to run" if most == left else f"{left} to {most} to run"
    console.print(f"{sum(cell.sha256 in done for cell in plan.cells)} finished already, {to_run}")
    _print_tests(plan, console)
    _print_estimates(plan, console)


def _open(plan: Plan, done: Mapping[str, Row]) -> bool:
    """Whether the number of seeds of some primary comparison is not known yet."""
    from mpssl_fed.study.sequential import wanted

    return any(comparison.why == "first stage not finished" for comparison in wanted(plan, done))


def _print_tests(plan: Plan, console: Console) -> None:
    """Print which comparisons are primary, and where the settings come from."""
    from mpssl_fed.study.keys import label
    from mpssl_fed.study.tuned import departures, explained, idle_reasons, settings_words, table_of

    arms, primary = plan.arms(), plan.primary()
    if primary:
        console.print(f"{len(primary)} primary comparisons, corrected among themselves (Holm); all others are exploratory:")
    for one, other in primary:
        console.print(
            f"  {label(plan.telling(arms[one]))} against {label(plan.telling(arms[other]))}", soft_wrap=True, markup=False
        )
    said, tuned = settings_words(plan), plan.study.tuned
    if said:
        console.print(said, soft_wrap=True, markup=False)
    table = table_of(tuned) if tuned is not None else None
    if tuned is not None and table is not None:
        for departure in departures(plan, table):
            console.print(f"  {explained(departure, tuned)}", soft_wrap=True, markup=False)
        for why in idle_reasons(plan, table):
            console.print(f"  no arm needs this reason of tuned.unless: {why}", soft_wrap=True, markup=False)


def _print_estimates(plan: Plan, console: Console) -> None:
    """Build what each arm's cells would build and print what a run takes, then what all of them do and what is missing."""
    from mpssl_fed.report.table import NOTHING, make_table, to_terminal
    from mpssl_fed.study.dry_run.estimate import estimate
    from mpssl_fed.study.dry_run.missing import missing
    from mpssl_fed.study.grid import arm_of

    firsts = {arm_of(cell.settings): cell for cell in reversed(plan.first)}
    found = {name: estimate(cell) for name, cell in reversed(firsts.items())}
    lines = []
    for name, one in found.items():
        numbers = () if one is None else (one.classifier, one.latents, one.generator, one.steps, one.images)
        words = [f"{value:,}" for value in numbers] + ([] if one is None else [f"{one.memory:,.0f}"])
        lines.append([firsts[name].label, *(words or [NOTHING] * 6)])
    columns = ["arm", "parameters", "of latents", "of generator", "steps per run", "generator images", "memory (MiB)"]
    console.print(to_terminal(make_table(columns, lines, ["arm"])))
    sums = [("All cells", plan.cells)] if plan.study.rule is None else [("At least", plan.first), ("At most", plan.cells)]
    for which, cells in sums:
        known = [one for cell in cells if (one := found[arm_of(cell.settings)]) is not None]
        steps, images = sum(one.steps for one in known), sum(one.images for one in known)
        console.print(f"{which}: {steps:,} steps, {images:,} generator images.")
    console.print("Memory is an estimate of tensors alone, libraries apart.")
    if None in found.values():
        console.print("Not estimated: data sets whose classes only their files tell, and these are not here.")
    absent = [missing(firsts[name].config) if one is None else one.missing for name, one in found.items()]
    for file in dict.fromkeys(file for files in absent for file in files):
        console.print(f"missing: {file}", soft_wrap=True)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Directory of a run or a study.", metavar="RUN")]) -> None:
    """Build report.html of a run or a study anew from its files."""
    from mpssl_fed.study.report.page import write_report

    print(write_report(folder))
