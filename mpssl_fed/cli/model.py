"""Commands on what has been trained: ``predict``, ``evaluate``, ``export``."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpssl_fed.cli.options import AsJson, WhiteLevel

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mpssl_fed.data.walk import Skipped
    from mpssl_fed.metrics import Metrics
    from mpssl_fed.trained import Evaluation, Prediction

app = typer.Typer()
WIDEST = 20
"""Classes whose confusion matrix fits on a screen; of more, the commonest mistakes are listed (--json has the matrix)."""
HEAD = 16
"""Letters of a class's name above its column; a longer one stands whole below the table."""

Run = Annotated[Path, typer.Argument(help="Run directory, or a model.safetensors file.")]
Device = Annotated[str, typer.Option(help="auto (CUDA where there is one), cpu, cuda, mps.")]


@app.command()
def predict(
    run: Run,
    files: Annotated[
        list[Path],
        typer.Argument(help="Image files of any size, grey or colour, folders, or CSV lists with a column path."),
    ],
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output instead of a table.")] = False,
    device: Device = "auto",
    white_level: WhiteLevel = None,
) -> None:
    """Name the class of image files, with its probability; of a list line by line, each file as it is written there.

    What was left out of a folder is said on standard error.
    """
    from mpssl_fed.data.walk import Skipped
    from mpssl_fed.errors import UserError
    from mpssl_fed.trained import load_trained
    from mpssl_fed.trained import predict as predictions

    if as_json and as_csv:
        raise UserError("--json and --csv: choose one")
    skipped = Skipped()
    found = predictions(load_trained(run, device, white_level), files, skipped)
    _say(skipped)
    if as_json:
        rows = [
            {"file": _name(one), "class": one.label, "probability": one.probability, "probabilities": one.probabilities}
            for one in found
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    first = next(found)  # a folder without images was refused above; whatever is wrong with the first file shows before a header
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("file", "class", "probability"))
        writer.writerows((_name(one), one.label, f"{one.probability:.6f}") for one in chain([first], found))
        return
    lines = [(one.written or str(one.file), one.label, f"{one.probability:.4f}") for one in chain([first], found)]
    _console().print(_table(("file", "class", "probability"), lines))


@app.command()
def evaluate(
    run: Run,
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder with CLASS/*.png|jpg|..., or a CSV list path,label[,subject][,site][,split], of which all or the test "
            "split is evaluated; the class names are the run's."
        ),
    ],
    as_json: AsJson = False,
    bins: Annotated[int, typer.Option(min=1, max=1000, help="Bins of the calibration table.")] = 10,
    subjects: Annotated[str | None, typer.Option(help="'parent': the images lie in CLASS/SUBJECT/; or 'dicom-patient-id'.")] = None,
    device: Device = "auto",
    white_level: WhiteLevel = None,
) -> None:
    """Accuracy, AUROC, sensitivity, specificity and more with intervals, confusion matrix and calibration on labelled images."""
    from mpssl_fed.data.walk import Skipped
    from mpssl_fed.environment import expanded
    from mpssl_fed.trained import evaluate_folder, evaluate_list, is_list, load_trained

    skipped, listed = Skipped(), is_list(expanded(images))
    evaluate_on = evaluate_list if listed else evaluate_folder
    result = evaluate_on(load_trained(run, device, white_level), images, bins, subjects, skipped)
    _say(skipped)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        _print_evaluation(result)


@app.command()
def export(
    run: Run,
    form: Annotated[str, typer.Option("--format", help="torch-export, onnx (extra [onnx]), or hub: a folder.")] = "torch-export",
    out: Annotated[
        Path | None, typer.Option(help="File (hub: folder) to write; default beside the model: model.pt2 or model.onnx.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file, or files, if they exist.")] = False,
) -> None:
    """Write the classifier for other runtimes and compare the file with the original on random images.

    Format hub writes a folder in the form of the Hugging Face hub: model.safetensors, config.json and README.md, the model's card.
    """
    if form == "hub":
        from mpssl_fed.dossier.publish import publish

        published = publish(run, out, overwrite)
        for note in published.notes:
            typer.echo(note, err=True)
        typer.echo(f"{published.folder}: load it by mpssl_fed.load, predict or evaluate")
        return
    from mpssl_fed.trained import export as write
    from mpssl_fed.trained import load_trained

    trained = load_trained(run, "cpu")
    exported = write(trained, form, out, overwrite)
    shape = f"[n, {trained.classifier.channels}, {trained.classifier.size}, {trained.classifier.size}]"
    typer.echo(
        f"{exported.file}: images float32 {shape} in [-1, 1] -> logits [n, {len(trained.classes)}]; "
        f"largest difference on random images {exported.difference:.2g}"
    )


def _print_evaluation(result: Evaluation) -> None:
    from mpssl_fed.names import distinct, shown

    console = _console()
    low, high = result.interval
    console.print(f"{result.images} images: accuracy {result.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}), ", end="")
    console.print(f"cross-entropy {result.loss:.4f}")
    wide = len(result.classes) <= WIDEST
    heads = distinct(result.classes, HEAD) if wide else []
    columns, title = (heads, "named (columns) by class (rows)") if wide else ([], "recall")
    rows = []
    for name, row in zip(result.classes, result.confusion, strict=True):
        recall = result.recall[name]
        numbers = map(str, row) if wide else ()
        rows.append((name, "" if recall is None else f"{recall:.4f}", str(result.support[name]), *numbers))
    console.print(_table(("class", "recall", "images", *columns), rows, title))
    for head, name in zip(heads, result.classes, strict=False):
        if head != shown(name):
            console.print(f"{head}: {shown(name)}")
    if not wide:
        for count, truth, named in result.mistakes()[:WIDEST]:
            console.print(f"{count} x {shown(truth)} named {shown(named)}")
    if result.sites is not None:
        sites = [
            (one.name or "-", str(one.images), f"{one.accuracy:.4f}", "{:.4f} to {:.4f}".format(*one.interval))
            for one in result.sites
        ]
        console.print(_table(("site", "images", "accuracy", "95 % interval"), sites, "by site"))
    _print_metrics(console, result.metrics)
    bins = [
        (f"{bin_.low:.2f}-{bin_.high:.2f}", str(bin_.images), f"{bin_.confidence:.4f}", f"{bin_.accuracy:.4f}")
        for bin_ in result.reliability
    ]
    console.print(_table(("probability", "images", "mean", "right"), bins, "calibration"))
    console.print(
        f"expected calibration error {result.ece:.4f} ({len(result.reliability)} bins with images); "
        f"mean probability {result.confidence:.4f}"
    )


def _print_metrics(console: Console, found: Metrics) -> None:
    from mpssl_fed.metrics import NAMES, Value

    def number(value: Value) -> str:
        return "–" if value.value is None else f"{value.value:.4f}"

    def interval(value: Value) -> str:
        return "" if value.low is None else f"{value.low:.4f} to {value.high:.4f}"

    def both(value: Value) -> str:
        return f"{number(value)} ({interval(value)})" if value.low is not None else number(value)

    of = f", {found.subjects} subjects" if found.subjects is not None else ""
    console.print(
        _table(
            ("metric", "value", "95 % interval"),
            [(NAMES[name], number(value), interval(value)) for name, value in found.overall.items()],
            f"{found.images} images{of}",
        )
    )
    rows = [
        (one.name, both(one.sensitivity), both(one.specificity), both(one.auroc), both(one.average_precision))
        for one in found.classes
    ]
    console.print(
        _table(("class", "sensitivity", "specificity", "AUROC", "average precision"), rows, "each class against all others")
    )


def _name(one: Prediction) -> str:
    """Return the file for CSV and JSON: as a list writes it, so that its lines are found again, else as a text for any encoding."""
    from mpssl_fed.names import as_text

    return as_text(one.file) if one.written is None else one.written


def _console() -> Console:
    """Return a console that prints names as they are: no markup, no emoji, nothing cut."""
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width: a long file name stays on its line
    return console


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """Return a table of names and numbers for a terminal, names whole, on several lines where one is too short."""
    from rich.table import Table
    from rich.text import Text

    from mpssl_fed.names import shown

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    return table


def _say(skipped: Skipped) -> None:
    """Say on standard error what was left out, so that a table or CSV on standard output stays whole."""
    for line in skipped.lines():
        print(line, file=sys.stderr)
