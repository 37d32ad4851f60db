"""Commands on generators: ``pretrain-generator`` trains one, ``generate`` shows samples."""

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
    classes: Annotated[
        str, typer.Option(help="digits (0-9, A-Z), letters (no digits), scripts (many, and textures), or chars:ABC.")
    ] = "digits",
    kind: Annotated[str, typer.Option(help="biggan, vqvae or diffusion (a few-step rectified flow).")] = "biggan",
    iterations: Annotated[
        int | None, typer.Option(help="Training steps; default 6000, vqvae 4000, diffusion 12000, scripts 13000.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and renders.")] = 0,
    channel_width: Annotated[int | None, typer.Option(help="BigGAN's channel width; at least 4, default 16, scripts 24.")] = None,
    min_fonts: Annotated[int | None, typer.Option(help="Fewer usable fonts than this are an error; default 100.")] = None,
    max_fonts: Annotated[int | None, typer.Option(help="Read at most this many font files.")] = None,
    foundation_steps: Annotated[
        int | None, typer.Option(help="Training steps of the foundation classifier; default 3000, scripts 8000.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the generator in the folder --out, and nothing else there.")
    ] = False,
) -> None:
    """Train a small class-conditional generator on glyphs rendered from fonts. Ctrl-C keeps what it has learned so far."""
    from dataclasses import replace

    from mpssl_fed.errors import UserError
    from mpssl_fed.generators.broad.gate import GATE, Gate
    from mpssl_fed.generators.broad.pretrain import SETTINGS, ScriptSource, pretrain_scripts
    from mpssl_fed.generators.pretrain import GlyphSource, pretrain
    from mpssl_fed.generators.settings import DistilSettings, SmallSettings

    kinds = {"biggan": 6000, "vqvae": 4000, "diffusion": 12000}
    if kind not in kinds:
        raise UserError(f"--kind is '{kind}'; it must be {', '.join(kinds)}.")
    if channel_width is not None and kind != "biggan":
        raise UserError(f"--channel-width is {channel_width}, which only --kind biggan has; leave it out with --kind {kind}.")
    if channel_width is not None and channel_width < 4:
        raise UserError(f"--channel-width is {channel_width}; it must be 4 or more.")
    if classes == "scripts":
        for option, given in (("--kind", kind != "biggan"), ("--min-fonts", min_fonts), ("--max-fonts", max_fonts)):
            if given not in (False, None):
                raise UserError(f"{option} does not go with --classes scripts, a BigGAN of 2 to 32 fonts a script; leave it out.")
    with Steps() as steps:
        if classes == "scripts":
            wanted = {"iterations": iterations, "channel_width": channel_width, "seed": seed}
            manifest = pretrain_scripts(
                ScriptSource(fonts),
                out,
                replace(SETTINGS, **{key: value for key, value in wanted.items() if value is not None}),
                gate=GATE if foundation_steps is None else Gate(classifier_steps=foundation_steps),
                overwrite=overwrite,
                report=steps.show,
            )
        else:
            count = kinds[kind] if iterations is None else iterations
            settings: DistilSettings | SmallSettings = SmallSettings(kind, count, seed)
            if kind == "biggan":
                settings = DistilSettings(count, seed, channel_width or DistilSettings.channel_width)
            manifest = pretrain(
                GlyphSource(fonts, classes, GlyphSource.least if min_fonts is None else min_fonts, max_fonts),
                out,
                settings,
                foundation_steps=3000 if foundation_steps is None else foundation_steps,
                overwrite=overwrite,
                report=steps.show,
            )
    quality, training = manifest["quality"], manifest["training"]
    early = f" (stopped early, after {training['iterations_done']} iterations)" if training["interrupted"] else ""
    typer.echo(
        f"{out}{early}: {len(manifest['fonts'])} fonts, {training['training_cpu_seconds']} CPU seconds; a classifier of "
        f"renders names {quality['sample_accuracy']:.1%} of the samples and {quality['render_accuracy']:.1%} of renders."
    )
    gate = manifest.get("gate")
    if gate:
        outcome = "holds" if gate["held"] else "DOES NOT HOLD"
        left = f"{sum(manifest['classes_by_script'].values())} classes left, {len(gate['dropped'])} dropped"
        typer.echo(f"The gate of {gate['asked']:.0%} {outcome}: {gate['read']:.1%} read, {left}.")


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
