"""Commands that guard a site's data: ``privacy plan``, ``policy`` (its own file), and ``ledger`` show, verify, export, restore."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpssl_fed.cli.options import AsJson, Overrides
from mpssl_fed.cli.policy import ConfigName, policy_app
from mpssl_fed.errors import UserError

if TYPE_CHECKING:
    from mpssl_fed.privacy.ledger_rows import Row, Spent
    from mpssl_fed.privacy.policy import Policy

app = typer.Typer()
privacy_app = typer.Typer(no_args_is_help=True, help="What a run would release and what it costs.")
ledger_app = typer.Typer(no_args_is_help=True, help="What a site has released.")
app.add_typer(privacy_app, name="privacy")
app.add_typer(policy_app, name="policy")
app.add_typer(ledger_app, name="ledger")

LedgerPath = Annotated[Path, typer.Argument(help="The ledger's SQLite file; its .key and .head stand beside it.")]
HeadPath = Annotated[Path | None, typer.Option(help="The ledger's head file, where it lives in another folder.")]


@privacy_app.command("plan")
def plan_command(
    config: ConfigName,
    overrides: Overrides = None,
    classes: Annotated[int | None, typer.Option(help="Classes of the task, for the noise of a gap by class.")] = None,
    as_json: AsJson = False,
) -> None:
    """Solve sigma for privacy.epsilon and show what each release costs, before anything is read."""
    from mpssl_fed.config import load
    from mpssl_fed.privacy.plan import plan_for

    described = plan_for(load(config, overrides or [])).to_json(classes)
    typer.echo(json.dumps(described, indent=2) if as_json else plan_text(described))


def plan_text(plan: dict[str, Any]) -> str:
    """Return a plan's JSON form as lines to read."""
    unit, without = plan["unit"], plan["lmo"]
    covers = "every read of private data" if plan["scope"] == "end-to-end" else "the supervised gradient alone, not LMO"
    lines = [
        f"epsilon {plan['epsilon']:.3f} at delta {plan['delta']:g} per {unit}, of {plan['epsilon_asked']:g} asked; covers {covers}",
        f"sigma {plan['sigma']:g}, q {plan['sample_rate']:g}, {plan['rounds']} rounds x {plan['local_steps']} steps, "
        f"public size {plan['public_size']}",
        "release        sigma   clip      q  times  noise / clip",
    ]
    for release in plan["releases"]:
        of_class = release.get("noise_over_clip_of_a_class")
        lines.append(
            f"{release['name']:<13}{release['sigma']:>7.4g}{release['clip']:>7.3g}{release['q']:>7.3g}{release['steps']:>7d}"
            f"{release['noise_over_clip']:>14.4f}" + (f"  ({of_class:.4f} for the mean of one class)" if of_class else "")
        )
    lines.append("noise / clip: noise std of one coordinate after division by q x public_size, over the clip bound")
    if plan["lmo_every"]:
        lines.append(
            f"LMO every {plan['lmo_every']} steps: without it epsilon {without['epsilon_without']:.3f} at this sigma, or sigma "
            f"{without['sigma_without']:g} at this epsilon"
        )
    lines.append(f"a labelled-step account would claim epsilon {plan['labelled_step_epsilon']:.3f}")
    points = plan["epsilon_after_round"]
    shown = points if len(points) <= 10 else [points[len(points) * k // 10 - 1] for k in range(1, 11)]
    lines.append("epsilon after round " + ", ".join(f"{point['round']}: {point['epsilon']:.3f}" for point in shown))
    return "\n".join(lines)


@ledger_app.command()
def show(
    ledger: LedgerPath,
    delta: Annotated[float, typer.Option(help="delta at which epsilon is told.")] = 1e-5,
    policy: Annotated[Path | None, typer.Option(help="The site's policy: tells what is left of its lifetime budget.")] = None,
    head: HeadPath = None,
    as_json: AsJson = False,
) -> None:
    """Show what each data set has spent."""
    from mpssl_fed.privacy.ledger import SIMULATED, Ledger, spending
    from mpssl_fed.privacy.policy import load_policy

    rules = load_policy(policy) if policy else None
    rows = Ledger(ledger, head).rows()
    names = sorted({row.dataset for row in rows} - {"*"})
    note = rows[0].body.get("note")
    told = [_spent_json(spending(rows, name), rules.delta if rules else delta, rules, note == SIMULATED) for name in names]
    if as_json:
        typer.echo(json.dumps({"note": note, "rows": len(rows), "data_sets": told}, indent=2))
        return
    for line in ([note] if note else []) + [line for one in told for line in _spent_lines(one)] or ["nothing released"]:
        typer.echo(line)


def _spent_json(spent: Spent, delta: float, policy: Policy | None, simulated: bool) -> dict[str, Any]:
    """Return a data set's spending as JSON; epsilon is null where it is infinite, or where runs do not compose."""
    from mpssl_fed.privacy.accounting import epsilon
    from mpssl_fed.privacy.filter import RenyiFilter, lifetime_epsilon

    accounted = epsilon(spent.history, delta)
    told: dict[str, Any] = {
        "data_set": spent.dataset,
        "delta": delta,
        "epsilon": None if simulated or spent.unaccounted else accounted,
        "epsilon_accounted": None if simulated else accounted,
        "unaccounted": spent.reasons,
        "history": [[sigma, q, n] for (sigma, q), n in sorted(spent.history.items())],
        "runs": [
            {
                "run": run,
                "scope": one.scope,
                "terms": one.terms,
                "commitment": one.commitment,
                "epsilon_planned": epsilon(one.planned, delta),
                "epsilon_spent": epsilon(one.reserved, delta),
            }
            for run, one in spent.runs.items()
        ],
    }
    if policy is not None and policy.dataset == spent.dataset:
        limit = RenyiFilter(policy.max_epsilon, policy.delta)
        told |= {
            "max_epsilon": policy.max_epsilon,
            "epsilon_lifetime": lifetime_epsilon(limit, spent),
            "epsilon_filter": limit.epsilon(spent.history),
            "unit": policy.unit,
        }
    return told


def _spent_lines(told: dict[str, Any]) -> list[str]:
    from mpssl_fed.privacy.filter import rounded_up

    name = told["data_set"]
    if told["unaccounted"]:
        part = told["epsilon_accounted"]
        lines = [f"{name}: epsilon infinite" + ("" if part is None else f" (accounted part {part:.3f} at delta {told['delta']:g})")]
        lines += [f"  unaccounted: {reason}" for reason in told["unaccounted"]]
    elif told["epsilon"] is None:
        lines = [f"{name}: by run"]
    else:
        lines = [f"{name}: epsilon {told['epsilon']:.3f} at delta {told['delta']:g}"]
    if told.get("epsilon_lifetime") is not None:
        spent = rounded_up(told["epsilon_lifetime"])
        lines.append(f"  epsilon {spent} of {told['max_epsilon']:g} spent over its life, per {told['unit']}")
    lines += [
        f"  run {run['run']} ({run['scope']}, {run['terms']}): "
        f"epsilon {run['epsilon_spent']:.3f} of {run['epsilon_planned']:.3f} planned"
        for run in told["runs"]
    ]
    return lines


@ledger_app.command()
def verify(ledger: LedgerPath, head: HeadPath = None) -> None:
    """Check file, chain, head and records; exit 2 with what is wrong."""
    from mpssl_fed.privacy.ledger import Ledger

    typer.echo(f"{ledger}: {Ledger(ledger, head).verify()} rows, chain and head agree")


@ledger_app.command()
def export(
    ledger: LedgerPath,
    out: Annotated[Path | None, typer.Option(help="JSON file to write, for the owner alone; default: standard output.")] = None,
    head: HeadPath = None,
) -> None:
    """Write all rows as JSON. Counts of records stay behind: they would tell how much data there is."""
    from mpssl_fed.files import write_json
    from mpssl_fed.privacy.ledger import Ledger

    rows = [_exported(row) for row in Ledger(ledger, head).rows()]
    if out is None:
        typer.echo(json.dumps(rows, indent=2))
    else:
        write_json(out, rows, mode=0o600)


def _exported(row: Row) -> dict[str, Any]:
    return vars(row) | ({"body": {}} if row.kind == "records" else {})


@ledger_app.command()
def restore(
    ledger: LedgerPath,
    gap: Annotated[
        list[str],
        typer.Option(help="What was released since the copy, at most: SIGMA:Q:N (may be repeated), 'none', or 'unknown'."),
    ],
    backup: Annotated[Path | None, typer.Option(help="Copy to put in place; without it, what is there is kept.")] = None,
    note: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    head: HeadPath = None,
) -> None:
    """Use an earlier copy, once you have booked what may be missing from it; 'unknown' makes epsilon infinite."""
    from mpssl_fed.privacy.ledger import Ledger

    row = Ledger(ledger, head).book_gap(gap_history(gap), backup, note)
    lost = row.body["to"] - row.body["from"]
    typer.echo(f"{ledger}: {lost} rows were missing; booked {', '.join(gap)} as row {row.seq}")


def gap_history(words: list[str]) -> dict[tuple[float, float], int] | None:
    """Return the history that the words of ``--gap`` book, None for ``unknown``. UserError for any other word."""
    if words == ["unknown"]:
        return None
    history: dict[tuple[float, float], int] = {}
    for word in words if words != ["none"] else []:
        try:
            sigma, q, n = (float(part) for part in word.split(":"))
        except ValueError as error:
            raise UserError(f"--gap {word}: want SIGMA:Q:N, for example 1.2:0.02:300, or 'none', or 'unknown' alone") from error
        if not (0 < sigma < math.inf and 0 < q <= 1 and n > 0 and n == int(n)):
            raise UserError(f"--gap {word}: want sigma > 0, 0 < q <= 1 and a whole number of releases")
        history[sigma, q] = history.get((sigma, q), 0) + int(n)
    return history
