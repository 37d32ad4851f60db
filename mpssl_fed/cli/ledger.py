"""Commands for what a site has released: ``ledger`` show, verify, export, which write nothing; restore, accept, move-head."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpssl_fed.cli.options import AsJson
from mpssl_fed.errors import UserError

if TYPE_CHECKING:
    from mpssl_fed.privacy.ledger import Ledger
    from mpssl_fed.privacy.ledger_rows import Row
    from mpssl_fed.privacy.shared.history import History, Key

app = typer.Typer()
ledger_app = typer.Typer(no_args_is_help=True, help="What a site has released.")
app.add_typer(ledger_app, name="ledger")

LedgerPath = Annotated[Path, typer.Argument(help="The ledger's SQLite file; its .key stands beside it.")]
LedgersPath = Annotated[
    Path, typer.Argument(help="A ledger's SQLite file, a site's state folder, or a run directory: all its sites.")
]
HeadPath = Annotated[
    Path | None, typer.Option(help="The ledger's head file, where it is not where the ledger says (another mount point).")
]
FILE = "ledger.sqlite"


@ledger_app.command()
def show(
    ledger: LedgersPath,
    delta: Annotated[
        float | None,
        typer.Option(help="delta at which epsilon is told; default: the policy's, else the one that runs were charged at."),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="The site's policy: tells what is left of its lifetime budget.")] = None,
    head: HeadPath = None,
    as_json: AsJson = False,
) -> None:
    """Show what each data set has spent: never less than was, epsilon rounded up."""
    from mpssl_fed.privacy.ledger import SIMULATED
    from mpssl_fed.privacy.ledger_rows import Tally
    from mpssl_fed.privacy.policy import load_policy
    from mpssl_fed.report.spent import told_lines, told_of

    if delta is not None and not 0 < delta < 1:
        raise UserError(f"--delta {delta:g}: want a number between 0 and 1, for example 1e-5")
    rules = load_policy(policy) if policy else None
    found: dict[str, dict[str, Any]] = {}
    for name, one in _ledgers(ledger, head):
        rows, tally = one.rows(), Tally()
        for row in rows:
            tally.add(row)
        note = rows[0].body.get("note")
        told = [told_of(tally.of(dataset), rules, delta, note == SIMULATED) for dataset in tally.datasets]
        found[name] = {"note": note, "rows": len(rows), "data_sets": told}
    if as_json:
        typer.echo(json.dumps(found.get("") or {"sites": found}, indent=2))
        return
    for name, one_found in found.items():
        lines = [line for told in one_found["data_sets"] for line in told_lines(told)] or ["nothing released"]
        for line in ([f"site {name}"] if name else []) + ([one_found["note"]] if one_found["note"] else []) + lines:
            typer.echo(line)


@ledger_app.command()
def verify(ledger: LedgersPath, head: HeadPath = None) -> None:
    """Check file, chain, head and records; exit 2 with what is wrong."""
    for _, one in _ledgers(ledger, head):
        rows = one.verify()
        place = "" if one.files.head_beside else f"; the head is {one.files.head}"
        typer.echo(f"{one.files.database}: {rows} rows, chain and head agree{place}")


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


@ledger_app.command()
def accept(
    ledger: LedgerPath,
    dataset: Annotated[str, typer.Argument(help="The data set's name in the policy.")],
    note: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    head: HeadPath = None,
) -> None:
    """Say that a data set's images are the recorded ones in new files (another format, say): what was spent stays spent."""
    from mpssl_fed.privacy.ledger import Ledger

    row = Ledger(ledger, head).accept(dataset, note)
    typer.echo(f"{ledger}: the next images of '{dataset}' count as those on record (row {row.seq})")


@ledger_app.command("move-head")
def move_head(
    ledger: LedgerPath,
    to: Annotated[Path, typer.Argument(help="The head's new file: on another disk, or on append-only media.")],
    head: HeadPath = None,
) -> None:
    """Let the head live where a backup of the ledger's folder does not reach; the daemon then needs --ledger-head."""
    from mpssl_fed.privacy.ledger import Ledger

    if not to.parent.is_dir():
        raise UserError(f"{to}: no folder {to.parent}; make it, or mount its disk")
    row = Ledger(ledger, head).move_head(to.absolute())
    typer.echo(f"{ledger}: its head is {to} from row {row.seq} on; start the daemon with --ledger-head {to}")


def _ledgers(path: Path, head: Path | None) -> list[tuple[str, Ledger]]:
    """Return the ledgers at a path, by site; '' is the name of one that was named itself."""
    from mpssl_fed.privacy.ledger import Ledger

    try:
        if not path.is_dir():
            return [("", Ledger(path, head))]
        if (path / FILE).exists():
            return [("", Ledger(path / FILE, head))]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run as the ledger's owner") from error
    sites = sorted(path.glob(f"sites/*/{FILE}"), key=lambda file: (not file.parent.name.isdigit(), file.parent.name.zfill(9)))
    if not sites:
        cells = sorted(path.glob(f"cells/*/sites/*/{FILE}"))
        cure = f"a study; name one of its runs, for example {cells[0].parents[2]}" if cells else "a run without privacy keeps none"
        raise UserError(f"{path}: no ledger lies there ({cure}); a deployed site's lies in its state folder")
    if head is not None:
        raise UserError(f"--head {head}: {path} holds {len(sites)} ledgers; name one of them, for example {sites[0]}")
    return [(file.parent.name, Ledger(file)) for file in sites]


def _exported(row: Row) -> dict[str, Any]:
    return vars(row) | ({"body": {}} if row.kind == "records" else {})


def gap_history(words: list[str]) -> History | None:
    """Return the history that the words of ``--gap`` book, None for ``unknown``. UserError for any other word."""
    if words == ["unknown"]:
        return None
    history: dict[Key, int] = {}
    for word in words if words != ["none"] else []:
        try:
            sigma, q, n = (float(part) for part in word.split(":"))
        except ValueError as error:
            raise UserError(f"--gap {word}: want SIGMA:Q:N, for example 1.2:0.02:300, or 'none', or 'unknown' alone") from error
        if not (0 < sigma < math.inf and 0 < q <= 1 and n > 0 and n == int(n)):
            raise UserError(f"--gap {word}: want sigma > 0, 0 < q <= 1 and a whole number of releases")
        history[sigma, q] = history.get((sigma, q), 0) + int(n)
    return history
