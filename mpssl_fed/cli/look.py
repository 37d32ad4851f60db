"""Commands that look and change nothing: ``report``, ``data``, ``generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Directory of a run or a study.", metavar="RUN")]) -> None:
    """Build report.html of a run or a study anew from its files."""
    from mpssl_fed.study.report import write_report

    print(write_report(folder))


@app.command()
def data(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of a shipped config such as 'demo'.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
    plot: Annotated[Path | None, typer.Option(help="Folder for labels.png and labels.svg.")] = Path("runs/data"),
) -> None:
    """Print and plot who holds what: the labelled images of each class at each site."""
    from mpssl_fed.config import load
    from mpssl_fed.data.label_table import describe_partition
    from mpssl_fed.federation import parts
    from mpssl_fed.study.plots import label_distribution

    resolved = load(config, overrides or [])
    dataset, shares = parts.dataset(resolved), parts.shares(resolved)
    labels = dataset.train.y.numpy()
    shape = f"{dataset.channels} x {dataset.size} x {dataset.size}"
    held_out = "to test on" if resolved.data.held_out == "test" else "of the training pool held out to validate on"
    images = f"{len(labels)} images to train on, {len(dataset.test)} {held_out}, {shape}"
    print(f"{dataset.name}: {len(dataset.classes)} classes; {images}")
    print(f"{sum(map(len, shares))} are labelled and dealt out: {resolved.data.partition.name}, seed {resolved.seed}\n")
    print(describe_partition(labels, shares, dataset.classes))
    if plot is not None:
        counts = parts.label_counts(resolved)
        label_distribution(plot, counts["sites"], counts["classes"])
        print(f"\n{plot / 'labels.png'}")


@app.command()
def generate(
    generator: Annotated[str, typer.Option(help="Name of a generator, as in generator.name.")] = "glyphs-digits",
    path: Annotated[Path | None, typer.Option(help="Folder of its files, where the name alone does not say.")] = None,
    out: Annotated[Path, typer.Option(help="The PNG file.")] = Path("samples.png"),
    per_class: Annotated[int, typer.Option(help="Images of each class.")] = 8,
    classes: Annotated[str | None, typer.Option(help="Some classes alone: A,B,7; default all.")] = None,
    truncation: Annotated[float, typer.Option(help="Scale of the latents, above 0, at most 1.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the latents.")] = 0,
) -> None:
    """Write a labelled sheet of a generator's samples, one row a class."""
    from mpssl_fed.generators.base import load_generator
    from mpssl_fed.generators.grid import write_grid

    loaded = load_generator(generator, path, truncation)
    chosen = [name.strip() for name in classes.split(",") if name.strip()] if classes else None
    print(write_grid(loaded, out, per_class, chosen, seed))
