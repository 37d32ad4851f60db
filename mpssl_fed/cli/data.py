"""Commands on data: ``data`` shows who would hold what, ``fetch`` downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpssl_fed.cli.options import ConfigName, Overrides, Sites, words

app = typer.Typer()
PLOTS = Path("runs/data")  # where the plot goes unasked


@app.command()
def data(
    config: ConfigName,
    overrides: Overrides = None,
    sites: Sites = None,
    plot: Annotated[Path | None, typer.Option(help=f"Folder for labels.png and labels.svg (default {PLOTS}).")] = None,
) -> None:
    """Print and plot who holds what: the labelled images of each class at each site."""
    from mpssl_fed.config import load

    resolved = load(config, words(overrides, sites=sites))

    from mpssl_fed.data.label_table import describe_partition
    from mpssl_fed.federation import parts
    from mpssl_fed.federation.whole import subjects_of
    from mpssl_fed.names import shown
    from mpssl_fed.report.plots import label_distribution

    dataset, shares = parts.dataset(resolved), parts.shares(resolved)
    whole = subjects_of(resolved)
    labels = dataset.train.y.numpy()
    shape = f"{dataset.channels} x {dataset.size} x {dataset.size}"
    held_out = "to test on" if resolved.data.held_out == "test" else "of the training pool held out to validate on"
    images = f"{len(labels)} images to train on, {len(dataset.test)} {held_out}, {shape}"
    print(f"{dataset.name}: {len(dataset.classes)} classes; {images}")
    for line in [*([dataset.note] if dataset.note else []), *dataset.skipped.lines()]:
        print(line)
    print(f"{sum(map(len, shares))} are labelled and dealt out: {resolved.data.partition.name}, seed {resolved.seed}\n")
    print(describe_partition(labels, shares, dataset.classes))
    if whole is not None and dataset.train.subjects is not None:
        held = [len({dataset.train.subjects[i] for i in share}) for share in shares]
        tested = "" if whole["test"] is None else f"; {whole['test']} others {held_out}"
        print(f"{sum(held)} subjects have these images: {min(held)} to {max(held)} per site{tested}")
    for number, name in enumerate(parts.site_names(resolved) or ()):
        print(f"site {number}: {shown(name)}")
    counts = parts.label_counts(resolved)
    try:
        label_distribution(plot or PLOTS, counts["sites"], counts["classes"])
    except OSError as error:
        if plot is not None:
            raise
        print(
            f"\nNo plot: {PLOTS}: {error.strerror or error}; choose a folder by --plot DIR"
        )  # the table was asked for, and is there
    else:
        print(f"\n{(plot or PLOTS) / 'labels.png'}")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="biggan-deep-128/256/512, resnet18, resnet50, or a data set.")],
    root: Annotated[Path | None, typer.Option(help="Data sets: the folder to put them in (default ./data).")] = None,
    url: Annotated[str | None, typer.Option(help="Data sets: another address of the archive.")] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="Expected SHA-256 of the file.")] = None,
) -> None:
    """Download generator weights, ImageNet weights or a data set. An interrupted download continues where it stopped.

    Checksums: the published ones where there are any, else --sha256, else BigGAN's weights are trusted on first use. MedMNIST
    publishes MD5 alone: what passes it is trusted on first use too.
    """
    from mpssl_fed.generators.biggan import PUBLISHED
    from mpssl_fed.models.fetch import WEIGHTS, fetch_resnet

    if name in PUBLISHED:
        from mpssl_fed.generators.fetch import fetch as fetch_weights

        folder = fetch_weights(name, sha256)
        trust = "checked against --sha256" if sha256 else "trusted on first use: recorded in sha256.json, checked from now on"
        typer.echo(f"{name} is in {folder}; its SHA-256 was {trust}.")
    elif name in WEIGHTS:
        typer.echo(f"{name}: set model.pretrained={fetch_resnet(name)}")
    else:
        import mpssl_fed.data.datasets  # noqa: F401  (registers the data sets' archives)
        from mpssl_fed.data.fetch import ARCHIVES, fetch_dataset
        from mpssl_fed.data.formats import medmnist
        from mpssl_fed.data.omniglot import DATA_NAMES
        from mpssl_fed.errors import UserError, nearest

        known = [*PUBLISHED, *WEIGHTS, *(one for one in ARCHIVES.names() if "_" not in one)]
        if name not in known and name not in ARCHIVES:
            if reason := medmnist.refused(name):
                raise UserError(f"nothing to fetch under the name '{name}': {reason}")
            raise UserError(f"nothing to fetch under the name '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
        folder = root or Path("data")
        for path in fetch_dataset(name, folder, url, sha256):
            typer.echo(f"{name}: {path}")
        typer.echo(f"Set data.name={(DATA_NAMES | medmnist.DATA_NAMES).get(name, name)} data.root={folder}")
