"""The command ``audit``: what an attacker could measure of a run, beside what is claimed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpssl_fed.cli.options import WhiteLevel
from mpssl_fed.errors import UserError, nearest

if TYPE_CHECKING:
    from mpssl_fed.audit.audited import Audited

app = typer.Typer()

WHAT = ("mechanism", "canary", "membership", "samples", "inversion")
AT_A_SITE = ("mechanism", "canary", "inversion")


@dataclass(frozen=True)
class _Own:
    """What a deployed site's owner says of its images and its generator: the options of ``site run``."""

    data: Path
    name: str | None
    generator_path: str | None
    subjects: str | None
    white_level: float | None


@app.command("audit")
def audit_command(
    run: Annotated[Path, typer.Argument(help="Run directory of a simulation; with --data a deployed run's config.yaml.")],
    site: Annotated[int, typer.Option(min=0, help="Whose images are audited.")] = 0,
    what: Annotated[str | None, typer.Option(help=f"Some of {','.join(WHAT)}; default: all that the run allows.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="At a deployed site: folder or CSV file of its own images; the report stays here.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="With --data: the site, whose 0700 state folder takes the report.")] = None,
    generator_path: Annotated[str | None, typer.Option(help="With --data: this site's own copy of the run's generator.")] = None,
    subjects: Annotated[
        str | None, typer.Option(help="With --data: 'parent', where the images lie in CLASS/SUBJECT/; or 'dicom-patient-id'.")
    ] = None,
    white_level: WhiteLevel = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the report, made 0700; default RUN/sites/SITE/audit.")] = None,
    seed: Annotated[int, typer.Option(help="Of all but draws and noise, which are those of real releases.")] = 0,
    canaries: Annotated[int, typer.Option(min=100, help="Canaries of the one-run audit.")] = 20_000,
    trials: Annotated[int, typer.Option(min=1000, help="Trials of the mechanism audit.")] = 1_000_000,
    shadows: Annotated[int, typer.Option(min=0, help="Shadow models of the membership attack, an even number; 0: none.")] = 8,
    iterations: Annotated[int, typer.Option(min=1, help="Iterations of gradient inversion.")] = 300,
) -> None:
    """Audit a run: claimed epsilon, audited lower bound and attack success side by side. Exit 1 where a claim is contradicted."""
    if shadows % 2:
        raise UserError(f"--shadows {shadows}: want an even number, so that each image is in half of them")
    _chosen(what, ())  # a misspelt one is refused before anything is imported

    from mpssl_fed.audit.report import contradictions, verdicts, write_audit
    from mpssl_fed.audit.sections import AUDITS, facts

    own = None if data is None else _Own(data, name, generator_path, subjects, white_level)
    audited, folder, default = _subject(run, site, own, seed, (canaries, trials, shadows, iterations))
    names = _chosen(what, default)
    sections = []
    for number, audit in enumerate(names, start=1):
        typer.echo(f"[{number}/{len(names)}] {audit}")
        sections.append(AUDITS[audit](audited))
        for line in sections[-1].lines:
            epsilon = "" if line.lower_bound is None else f"  claimed {line.claimed:.3f}, proved from below {line.lower_bound:.3f}"
            typer.echo(f"      {line.audit}{epsilon}  {line.success}".rstrip())
    told = facts(audited)
    for verdict in verdicts(told, sections):
        typer.echo(verdict.words)
    typer.echo(str(write_audit(output or folder, told, sections)))
    if wrong := contradictions(sections):
        typer.echo(f"{len(wrong)} line(s) contradict the claim: {'; '.join(line.audit.strip() for line in wrong)}", err=True)
        raise typer.Exit(1)


def _chosen(what: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(word.strip() for word in what.split(",")) if what else default
    for name in names:
        if name not in WHAT:
            raise UserError(f"--what {name}: no such audit.{nearest(name, WHAT)} Known: {', '.join(WHAT)}")
    return names


def _subject(
    run: Path, site: int, own: _Own | None, seed: int, sizes: tuple[int, int, int, int]
) -> tuple[Audited, Path, tuple[str, ...]]:
    """Return what is audited, where the report goes, and the audits it allows."""
    from mpssl_fed.audit.audited import Audited
    from mpssl_fed.config import load
    from mpssl_fed.config.data import plain
    from mpssl_fed.deployment.isolation import make_private, state_folder
    from mpssl_fed.deployment.own_data import OwnData, split_key
    from mpssl_fed.federation.server.deployed_run import for_sites
    from mpssl_fed.runs.reader import MODEL, read_config, read_manifest
    from mpssl_fed.trained.load import load_trained

    if own is not None:
        config = for_sites(load(run / "config.yaml" if run.is_dir() else run))  # a server's paths are none of this site's
        config = config.model_copy(update={"generator": config.generator.model_copy(update={"path": own.generator_path})})
        if config.data.task is None:
            raise UserError(f"{run}: has no data.task; give the config.yaml of a deployed run, which names its classes")
        if own.name is None:
            raise UserError("--data needs --name, the site whose state folder takes the report")
        task = config.data.task
        shape = (task.size, task.channels, task.stored_size, task.fit, own.white_level, plain(task.window))
        folder = make_private(state_folder(own.name)) / "audit"
        images = OwnData(own.data, task.classes, own.subjects, *shape).images()
        key = split_key(folder.parent) if config.federation.evaluate_at_sites.times else b""
        audited = Audited(
            config, site, seed, None, None, None, *sizes, progress=_progress, own=images, source=str(own.data), key=key
        )
        return audited, folder, AT_A_SITE
    config = read_config(run)
    if config.federation.backend == "deployment":
        raise UserError(f"{run}: a deployment's sites keep their images; run this at a site, with --data and --name")
    if site >= config.federation.sites:
        raise UserError(f"--site {site}: the run has sites 0 to {config.federation.sites - 1}")
    trained = load_trained(run, "cpu").classifier if (run / MODEL).is_file() else None
    allowed = WHAT if trained is not None else tuple(audit for audit in WHAT if audit != "membership")
    run_id = read_manifest(run)["run_id"]
    audited = Audited(config, site, seed, run_id, run / "sites", trained, *sizes, progress=_progress)
    return audited, run / "sites" / str(site) / "audit", allowed


def _progress(text: str) -> None:
    typer.echo(f"      {text}", err=True)
