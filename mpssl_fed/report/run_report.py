"""``report.html`` of one run: one file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpssl_fed.page import write_page
from mpssl_fed.report import chance
from mpssl_fed.report.at_sites_section import TERMS, at_sites_sections
from mpssl_fed.report.diagnosis_section import run_diagnosis
from mpssl_fed.report.finding import ONE_SEED, run_finding
from mpssl_fed.report.latent_section import latent_sections, latent_warning
from mpssl_fed.report.metrics_section import metrics_sections
from mpssl_fed.report.privacy_section import privacy_sections
from mpssl_fed.report.run_sections import left_out, run_sections
from mpssl_fed.report.table import seconds_words
from mpssl_fed.report.terms import run_terms, uses_generator
from mpssl_fed.runs.reader import RunReader


def write_run_report(folder: str | Path) -> Path:
    """Write ``report.html`` and ``plots/`` of one run, finished or not, from its files alone, and return the page's path."""
    run = RunReader(Path(folder))
    accuracy = run.accuracy
    config = run.config
    measured = metrics_sections(run, run.path / "plots")
    diagnosis, latents, told = run_diagnosis(run), latent_sections(run), at_sites_sections(run)
    facts = [
        ("method", _method(config)),
        ("data", f"{config['data']['name']}"),
        ("sites", str(config["federation"]["sites"])),
        ("rounds", f"{run.rounds[-1].number} of {config['federation']['rounds']}"),
        *(
            [("final accuracy", f"{100 * accuracy[-1][1]:.1f} %"), ("best", f"{100 * max(v for _, v in accuracy):.1f} %")]
            if accuracy
            else []
        ),
        ("time", seconds_words(run.seconds)),
        *([("finished", run.manifest["finished"][:10])] if run.manifest.get("finished") else []),
    ]
    return write_page(
        run.path / "report.html",
        "run.html",
        title=f"{_method(config)} on {config['data']['name']}",
        subtitle=_subtitle(run),
        finding=run_finding(run),
        finding_note=ONE_SEED,
        at_chance=chance.warning(run),
        facts=facts,
        warning=_warning(run),
        run=run_sections(run, run.path / "plots"),
        extra=[*measured, *told, *privacy_sections(run), *latents, *diagnosis],
        terms=list(((TERMS if told else {}) | dict(run_terms(config, bool(diagnosis), bool(latents), bool(measured)))).items()),
        config=run.config_text,
        manifest=json.dumps(run.manifest, indent=2),
    )


def last_line(folder: Path, page: Path) -> str:
    """Return what a run ends with on a terminal: its last accuracy, where any was measured, and its page."""
    run = RunReader(folder)
    accuracy = run.accuracy
    return f"{run.held_out} accuracy {accuracy[-1][1]:.4f}   {page}" if accuracy else str(page)


def report_run(folder: str | Path, tell: Callable[[str], None]) -> Path:
    """Write the report of a run that has ended and return the page's path; ``tell`` the reader where it has learnt nothing."""
    page = write_run_report(folder)
    for line in chance.warning(RunReader(Path(folder))):
        tell(line)
    return page


def _method(config: dict[str, Any]) -> str:
    method = config["method"]
    return f"{method['name'] or method['source'] + ' + ' + method['loss']}, {method['augment']} augmentation"


def _subtitle(run: RunReader) -> str:
    config = run.config
    data, privacy = config["data"], config["privacy"]
    labels = data["labels_per_class"]
    share = "all" if data["label_fraction"] in (1, None) else f"{data['label_fraction']:g}"
    holds = f"{share} of the pool labelled" if labels is None else f"{labels} labelled images per class"
    of = {"site": " at each site, on average", "all-sites": ", over all sites"}[data["labels_over"]] if labels is not None else ""
    private = "no differential privacy"
    if privacy["scope"] != "off":
        private = f"epsilon {privacy['epsilon']:g} per {privacy['unit']} ({privacy['scope']})"
    parts = [
        f"{holds}{of}",
        f"split over sites: {data['partition']['name']}",
        *([f"generator {config['generator']['name']}"] if uses_generator(config) else []),
        f"classifier {config['model']['name']}",
        f"{config['federation']['local_steps']} local steps per round",
        private,
        *_hidden(config["federation"]),
        *(["evaluated on a validation part of the training pool"] if data.get("held_out") == "validation" else []),
        f"seed {config['seed']}",
    ]
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def _hidden(federation: dict[str, Any]) -> list[str]:
    """Return what is hidden from the server of the sites' weights; nothing of a run before it could be asked for."""
    if federation.get("aggregation", "plain") == "plain":
        return []
    if not federation["secure"].get("masks", True):
        return ["sums of integers that masks would hide, without masks"]
    return [f"the server saw sums of at least {federation['secure']['min_sites']} sites' updates alone"]


def _warning(run: RunReader) -> str:
    done, wanted = run.rounds[-1].number, run.config["federation"]["rounds"]
    warnings = [f"This run stopped after {done} of {wanted} rounds."] if done < wanted else []
    reasons = left_out(run)
    if reasons:
        words = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        n = sum(reasons.values())
        warnings.append(f"{n} {'reply is' if n == 1 else 'replies are'} not in the result: {words}.")
    return " ".join([*warnings, *filter(None, [latent_warning(run)])])
