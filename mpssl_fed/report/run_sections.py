"""What a report shows of one run: curves, who holds what, synthetic images, time, who answered."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from mpssl_fed.report import plots
from mpssl_fed.report.page import picture
from mpssl_fed.report.table import Table, make_table, seconds_words
from mpssl_fed.runs.reader import RunReader

MOST_PICTURES = 8
PHASES = {
    "train": "training at the sites",
    "generate": "making synthetic images",
    "serialise": "packing and reading messages",
    "aggregate": "putting replies together",
    "evaluate": "evaluating at the server",
}


def run_sections(run: RunReader, plot_folder: Path) -> dict[str, Any]:
    """Return the values of the template's ``run_sections``; plots go into ``plot_folder`` as SVG and PNG too."""
    held_out = run.config["data"].get("held_out", "test")  # runs of an older schema know the test set alone
    losses = {held_out: run.evaluated("test_loss"), "training, mean over sites": run.evaluated("train_loss")}
    labels, note = _labels(run, plot_folder)
    return {
        "curves": plots.run_curves(
            plot_folder, run.evaluated("test_accuracy"), {name: line for name, line in losses.items() if line}, held_out
        ),
        "labels": labels,
        "labels_note": note,
        **_pictures(run),
        "timings": timings_table(run),
        "answers": answers_table(run),
    }


def timings_table(run: RunReader) -> Table:
    """Return seconds by kind of work; those of sites add up over sites, which may have worked at once."""
    known = {name for entry in run.rounds for name in entry.get("timings", {})}
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
    for entry in run.rounds[1:]:
        rejected = {code: n for code, n in (entry.get("rejected") or {}).items() if n}
        numbers = (entry.get("sites_asked"), entry.get("sites_answered"), entry.get("missing", 0), tuple(sorted(rejected.items())))
        if numbers == last:
            lines[-1][0] = f"{first_round}–{entry['round']}"
            continue
        last, first_round = numbers, entry["round"]
        words = ", ".join(f"{n} {code}" for code, n in numbers[3]) or "none"
        lines.append([str(first_round), str(numbers[0]), str(numbers[1]), str(numbers[2]), words])
    return make_table(["rounds", "sites asked", "answered", "missing or late", "left out"], lines, ["rounds", "left out"])


def left_out(run: RunReader) -> Counter[str]:
    """Return how many replies of all rounds were missing or left out, by reason."""
    reasons: Counter[str] = Counter()
    for entry in run.rounds:
        reasons.update({"missing": entry.get("missing") or 0, **(entry.get("rejected") or {})})
    return +reasons


def _labels(run: RunReader, plot_folder: Path) -> tuple[str | None, str]:
    file = run.path / "labels.json"
    if not file.is_file():
        return None, ""
    content = json.loads(file.read_text(encoding="utf-8"))
    counts = content["sites"]
    hidden = len(counts) - plots.MOST_SITES
    note = "Labelled images of each class at each site."
    return plots.label_distribution(plot_folder, counts, content["classes"]), note + (
        f" {hidden} more sites not shown." if hidden > 0 else ""
    )


def _pictures(run: RunReader) -> dict[str, Any]:
    own = run.path / "generator.png"
    sites = [(site.name, site / "samples.png") for site in run.sites if (site / "samples.png").is_file()]
    pictures = [picture(own, "generator: random latents and classes")] if own.is_file() else []
    pictures += [picture(file, f"site {name}") for name, file in sites[:MOST_PICTURES]]
    hidden = len(sites) - MOST_PICTURES
    note = "The generator's own random images, then what each site drew from it."
    if run.config.get("method", {}).get("source") == "meta-optimised":
        note += " Meta-optimised latents are drawn for the task's classes, shown in their order."
    uses_none = run.config.get("method", {}).get("source") == "none"
    return {
        "samples": pictures,
        "samples_note": note + (f" {hidden} more sites not shown." if hidden > 0 else ""),
        "no_samples": "This method uses no generator."
        if uses_none
        else "This run directory holds no samples: in a deployment they stay at the sites.",
    }
