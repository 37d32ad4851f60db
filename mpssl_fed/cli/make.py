"""Commands that make a generator, and the one that downloads: pretrain-generator and fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

app = typer.Typer(no_args_is_help=True)


class Steps:
    """Progress of named stages: a bar each on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
        self.bars = Progress(*columns, console=self.console) if self.console.is_terminal else None
        self.tasks: dict[str, object] = {}
        self.printed: dict[str, float] = {}

    def __enter__(self) -> Steps:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()

    def show(self, stage: str, done: int, total: int | None, loss: float | None = None) -> None:
        """Report ``done`` of ``total``; lines come when a stage starts, each tenth of it, and when it ends."""
        text = stage + (f", loss {loss:.4f}" if loss is not None else "")
        if self.bars:
            task = self.tasks.get(stage)
            if task is None:
                task = self.tasks[stage] = self.bars.add_task(stage, total=total)
            self.bars.update(task, completed=done, total=total, description=text)  # type: ignore[arg-type]
            return
        share = done / total if total else 0.0
        if stage not in self.printed or share >= 1 or share >= self.printed[stage] + 0.1:
            if self.printed.get(stage) != 1:
                self.console.print(f"{text}: {done}" + (f" of {total}" if total else ""), highlight=False)
            self.printed[stage] = min(share, 1)


@app.command("pretrain-generator")
def pretrain_generator(
    fonts: Annotated[Path, typer.Option(help="Folder with font files (.ttf, .otf, .ttc, .pfb), searched in depth.")],
    out: Annotated[Path, typer.Option(help="Folder to write: config.json, pytorch_model.bin, manifest.json, ...")],
    classes: Annotated[str, typer.Option(help="'digits' (0-9, A-Z), 'letters' (no digits), or chars:ABC.")] = "digits",
    kind: Annotated[str, typer.Option(help="biggan, vqvae or diffusion (a few-step rectified flow).")] = "biggan",
    iterations: Annotated[int | None, typer.Option(help="Training steps; default 6000, vqvae 4000, diffusion 12000.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and renders.")] = 0,
    channel_width: Annotated[int | None, typer.Option(help="BigGAN's channel width; at least 4, default 16.")] = None,
    min_fonts: Annotated[int, typer.Option(help="Fewer usable fonts than this are an error.")] = 100,
    max_fonts: Annotated[int | None, typer.Option(help="Read at most this many font files.")] = None,
    foundation_steps: Annotated[int, typer.Option(help="Training steps of the foundation classifier.")] = 3000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder --out if it exists.")] = False,
) -> None:
    """Train a small class-conditional generator on glyphs rendered from fonts. Ctrl-C keeps what it has learned so far."""
    from mpssl_fed.errors import UserError
    from mpssl_fed.generators.distil import DistilSettings
    from mpssl_fed.generators.pretrain import pretrain
    from mpssl_fed.generators.train_small import SmallSettings

    kinds = {"biggan": 6000, "vqvae": 4000, "diffusion": 12000}
    if kind not in kinds:
        raise UserError(f"--kind is '{kind}'; it must be {', '.join(kinds)}.")
    iterations = kinds[kind] if iterations is None else iterations
    if channel_width is not None and kind != "biggan":
        raise UserError(f"--channel-width is {channel_width}, which only --kind biggan has; leave it out with --kind {kind}.")
    if channel_width is not None and channel_width < 4:
        raise UserError(f"--channel-width is {channel_width}; it must be 4 or more.")
    settings: DistilSettings | SmallSettings
    if kind == "biggan":
        settings = DistilSettings(iterations=iterations, seed=seed, channel_width=channel_width or DistilSettings.channel_width)
    else:
        settings = SmallSettings(kind, iterations, seed)
    with Steps() as steps:
        manifest = pretrain(
            fonts, classes, out, settings,
            min_fonts=min_fonts, max_fonts=max_fonts, foundation_steps=foundation_steps, overwrite=overwrite, report=steps.show,
        )  # fmt: skip
    quality, training = manifest["quality"], manifest["training"]
    early = f" (stopped early, after {training['iterations_done']} iterations)" if training["interrupted"] else ""
    typer.echo(
        f"{out}{early}: {len(manifest['fonts'])} fonts, {training['training_cpu_seconds']} CPU seconds; a classifier of "
        f"renders names {quality['sample_accuracy']:.1%} of the samples and {quality['render_accuracy']:.1%} of renders."
    )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="biggan-deep-128/256/512, resnet18, resnet50, or a data set.")],
    root: Annotated[Path | None, typer.Option(help="Data sets: the folder to put them in (default ./data).")] = None,
    url: Annotated[str | None, typer.Option(help="Data sets: another address of the archive.")] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="Expected SHA-256 of the file.")] = None,
) -> None:
    """Download generator weights, ImageNet weights or a data set. An interrupted download continues where it stopped.

    Checksums: the published ones where there are any, else --sha256, else BigGAN's weights are trusted on first use.
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
        from mpssl_fed.errors import UserError, nearest

        known = [*PUBLISHED, *WEIGHTS, *ARCHIVES.names()]
        if name not in known:
            raise UserError(f"nothing to fetch under the name '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
        folder = root or Path("data")
        for path in fetch_dataset(name, folder, url, sha256):
            typer.echo(f"{name}: {path}")
        typer.echo(f"Set data.name={name} data.root={folder}")
