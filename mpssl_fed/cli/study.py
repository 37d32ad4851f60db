"""The commands ``study`` and ``report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mpssl_fed.cli.options import folder_given
from mpssl_fed.errors import UserError, nearest
from mpssl_fed.study.grid import Plan, load_study

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
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the study stopped; it always does.")] = False,  # noqa: ARG001
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
        _print_plan(plan, folder, console)
        return
    code = _run(plan, folder, workers or plan.study.workers, executor, from_csv, overwrite, console)
    if code:
        raise typer.Exit(code)


def _run(plan: Plan, folder: Path, workers: int, executor: str, from_csv: Path | None, overwrite: bool, console: Console) -> int:
    from mpssl_fed.report.table import to_terminal
    from mpssl_fed.runs.lock import holding
    from mpssl_fed.study.analysis import analyse
    from mpssl_fed.study.finding import study_finding
    from mpssl_fed.study.report import ASKED, write_study_report
    from mpssl_fed.study.run import run_study
    from mpssl_fed.study.tables import asked_table, comparison_table

    outcome = run_study(plan, folder, workers, executor, from_csv, overwrite)  # type: ignore[arg-type]
    with holding(folder):
        page = write_study_report(outcome)
    console.print()
    arms, asked = analyse(outcome)
    console.print(to_terminal(comparison_table(outcome, arms), plan.study.title or f"Study {plan.name}"))
    if asked:
        console.print()
        console.print(to_terminal(asked_table(asked, plan.study.metric), ASKED))
    console.print(f"\n{study_finding(outcome, arms, asked)}", soft_wrap=True, markup=False)
    console.print(f"\n{page}", soft_wrap=True)
    if outcome.interrupted:
        console.print("Stopped; the same command goes on from here.")
        return 130
    if outcome.failed:
        console.print(f"{len(outcome.failed)} of {len(plan.cells)} cells failed; the report says why, {folder}/logs has the rest.")
        return 1
    return 0


def _print_plan(plan: Plan, folder: Path, console: Console) -> None:
    from mpssl_fed.study.folder import finished_rows
    from mpssl_fed.study.grid import arm_of

    arms = {arm_of(cell.settings): cell.label for cell in plan.cells}
    done = finished_rows(plan, folder)
    seeds = ", ".join(str(seed) for seed in plan.study.seeds)
    console.print(
        f"{len(plan.cells)} cells: {len(arms)} arms x {len(plan.study.seeds)} seeds ({seeds}), into {folder}", soft_wrap=True
    )
    console.print(f"{len(done)} finished already, {len(plan.cells) - len(done)} to run")
    _print_estimates(plan, console)


def _print_estimates(plan: Plan, console: Console) -> None:
    """Build what each arm's cells would build and print what a run takes, then what all of them do and what is missing."""
    from mpssl_fed.report.table import NOTHING, make_table, to_terminal
    from mpssl_fed.study.dry_run import estimate, missing
    from mpssl_fed.study.grid import arm_of

    firsts = {arm_of(cell.settings): cell for cell in reversed(plan.cells)}
    found = {name: estimate(cell) for name, cell in reversed(firsts.items())}
    lines = []
    for name, one in found.items():
        numbers = () if one is None else (one.classifier, one.latents, one.generator, one.steps, one.images)
        words = [f"{value:,}" for value in numbers] + ([] if one is None else [f"{one.memory:,.0f}"])
        lines.append([firsts[name].label, *(words or [NOTHING] * 6)])
    columns = ["arm", "parameters", "of latents", "of generator", "steps per run", "generator images", "memory (MiB)"]
    console.print(to_terminal(make_table(columns, lines, ["arm"])))
    cells = [found[arm_of(cell.settings)] for cell in plan.cells]
    steps, images = (sum(getattr(one, what) for one in cells if one is not None) for what in ("steps", "images"))
    console.print(
        f"All cells: {steps:,} steps, {images:,} generator images. Memory is an estimate of tensors alone, libraries apart."
    )
    if None in cells:
        console.print("Not estimated: data sets whose classes only their files tell, and these are not here.")
    absent = [missing(firsts[name].config) if one is None else one.missing for name, one in found.items()]
    for file in dict.fromkeys(file for files in absent for file in files):
        console.print(f"missing: {file}", soft_wrap=True)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Directory of a run or a study.", metavar="RUN")]) -> None:
    """Build report.html of a run or a study anew from its files."""
    from mpssl_fed.study.report import write_report

    print(write_report(folder))
