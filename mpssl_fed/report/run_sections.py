"""What a report shows of one run: curves, who holds what, synthetic images, time, who answered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from mpssl_fed.errors import UserError
from mpssl_fed.names import shown
from mpssl_fed.page import picture
from mpssl_fed.report import plots
from mpssl_fed.report.table import Table, make_table, seconds_words
from mpssl_fed.runs.reader import RunReader, read_json

MOST_PICTURES = 8
STAYS = "In a deployment this stays at the sites, in each owner's own report."
ORDER = (
    ", in the order of the classes that they are made for, each as often as among the site's training labels (under differential "
    "privacy all alike, or as its owner declares). Latents are optimised to train the classifier, not to be recognised, so a "
    "picture made for a class need not look like it."
)
PHASES = {
    "train": "training at the sites",
    "generate": "making synthetic images",
    "serialise": "packing and reading messages",
    "aggregate": "putting replies together",
    "evaluate": "warm start and evaluation",
}


def run_sections(run: RunReader, plot_folder: Path) -> dict[str, Any]:
    """Return the values of the template's ``run_sections``; plots go into ``plot_folder`` as SVG and PNG too.

    Of a deployment only what crossed a site's egress is shown, whatever of the sites' own lies in the run directory.
    """
    held_out = run.held_out
    losses = {held_out: run.loss, "training, mean over sites": run.train_loss}
    labels, note = _labels(run, plot_folder)
    return {
        "curves": plots.run_curves(plot_folder, run.accuracy, {name: line for name, line in losses.items() if line}, held_out),
        "curves_note": _curves_note(run, held_out),
        "labels": labels,
        "labels_note": note,
        "no_labels": STAYS if deployed(run) else "This run directory holds no label counts.",
        **_pictures(run),
        "timings": timings_table(run),
        "answers": answers_table(run),
    }


def deployed(run: RunReader) -> bool:
    """Whether the sites of a run were machines of their own."""
    return bool(run.config["federation"].get("backend") == "deployment")


def _curves_note(run: RunReader, held_out: str) -> str:
    before = "Round 0 is the model before any training at the sites"
    if run.config.get("warm_start", {}).get("part", "none") != "none":
        before += ", warm-started from the public generator"
    return f"{before}. Accuracy and {held_out} loss: the server's {held_out} images. Training loss: what sites tell of their own."


def timings_table(run: RunReader) -> Table:
    """Return seconds by kind of work; those of sites add up over sites, which may have worked at once."""
    known = {name for one in run.rounds for name in one.timings}
    phases = [name for name in PHASES if name in known] + sorted(known - set(PHASES))
    total = sum(run.timing(phase) for phase in phases) or 1.0
    lines: list[list[str]] = [
        [PHASES.get(p) or p, seconds_words(run.timing(p)), f"{100 * run.timing(p) / total:.0f} %"] for p in phases
    ]
    return make_table(["work", "time", "share"], lines, ["work"])


def answers_table(run: RunReader) -> Table:
    """Return who was asked and who answered, rounds with the same numbers on one line."""
    lines: list[list[str]] = []
    last: tuple[Any, ...] = ()
    first_round = 0
    for one in run.rounds[1:]:
        numbers = (one.asked, one.answered, one.missing, tuple(sorted((code, n) for code, n in one.rejected.items() if n)))
        if numbers == last:
            lines[-1][0] = f"{first_round}–{one.number}"
            continue
        last, first_round = numbers, one.number
        words = ", ".join(f"{n} {code}" for code, n in numbers[3]) or "none"
        lines.append([str(first_round), str(numbers[0]), str(numbers[1]), str(numbers[2]), words])
    return make_table(["rounds", "sites asked", "answered", "missing or late", "left out"], lines, ["rounds", "left out"])


def left_out(run: RunReader) -> Counter[str]:
    """Return how many replies of all rounds were missing or left out, by reason."""
    reasons: Counter[str] = Counter()
    for one in run.rounds:
        reasons.update({"missing": one.missing, **one.rejected})
    return +reasons


def _labels(run: RunReader, plot_folder: Path) -> tuple[str | None, str]:
    file = run.path / "labels.json"
    if deployed(run) or not file.is_file():
        return None, ""
    content = read_json(file)
    counts, classes = content.get("sites"), content.get("classes")
    if not isinstance(counts, dict) or not isinstance(classes, list):
        raise UserError(f"{file}: damaged, 'classes' or 'sites' is missing; remove it to have the report without it")
    hidden = len(counts) - plots.MOST_SITES
    note = "Labelled images of each class at each site; in brackets how many a site has in all."
    note += f" {hidden} more sites not shown." if hidden > 0 else ""
    classes = [str(name) for name in classes]
    ticks = zip(plots.class_ticks(classes), classes, strict=True)
    whole = [f"{tick}: {shown(name)}" for tick, name in ticks if tick != shown(name)]
    note += f" Names in full: {'; '.join(whole)}." if whole else ""
    return plots.label_distribution(plot_folder, counts, classes), note


def _pictures(run: RunReader) -> dict[str, Any]:
    method = run.config.get("method", {})
    if deployed(run):
        return {"samples": [], "samples_note": "", "no_samples": STAYS}
    own = run.path / "generator.png"
    sites = [(site.name, site / "samples.png") for site in run.sites if (site / "samples.png").is_file()]
    pictures = [picture(own.read_bytes(), "generator: random latents and classes")] if own.is_file() else []
    pictures += [picture(file.read_bytes(), f"site {name}") for name, file in sites[:MOST_PICTURES]]
    hidden = len(sites) - MOST_PICTURES
    note = "First the generator's own random images."
    if sites:
        note += f" Then what each site drew from it at the end{ORDER if method.get('source') == 'meta-optimised' else '.'}"
    note += f" {hidden} more sites not shown." if hidden > 0 else ""
    none = "This method uses no generator." if method.get("source") == "none" else "This run directory holds no samples."
    return {"samples": pictures, "samples_note": note, "no_samples": none}
