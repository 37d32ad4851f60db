"""What a report shows of how synthetic images were chosen, along a simulation: mass on relevant classes, and the meta ratio."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from mpssl_fed.report.table import NOTHING, make_table
from mpssl_fed.runs.reader import RunReader

MOST_SITES, COLUMNS = 16, 5
LITTLE = 0.01
"""Meta ratio below which the validation loss has next to no say of its own."""

MEASURES = (
    ("mass on a task class's own generator classes", "converter_mass", "{:.3f}"),
    ("mass on those of any task class", "converter_mass_any", "{:.3f}"),
    ("perplexity of the converter", "converter_perplexity", "{:.1f}"),
    ("meta ratio", "meta_ratio", "{:.2g}"),
    ("feature gap that latents are optimised by", "gap", "{:.3g}"),
    ("share of latents near their bound", "near_bound", "{:.3f}"),
    ("share of latents beyond it", "beyond_bound", "{:.3f}"),
)
NOTE = (
    "Medians over sites. Untouched, latents have the perplexity of all generator classes, and 0.012 of them lie near their bound."
)

Rounds = dict[int, dict[str, float]]
"""Round -> the median over sites of each number."""


def latent_sections(run: RunReader) -> list[dict[str, Any]]:
    """Return the section of a simulation whose generator classes or latents are chosen; none of any other run."""
    rounds = _rounds(run)
    if not rounds:
        return []
    shown = sorted({list(rounds)[round(k * (len(rounds) - 1) / (COLUMNS - 1))] for k in range(COLUMNS)})
    lines = [
        [words, *(form.format(rounds[n][key]) if key in rounds[n] else NOTHING for n in shown)]
        for words, key, form in MEASURES
        if any(key in rounds[n] for n in shown)
    ]
    verdict = _little(run.config["method"]["gap"], rounds)
    table = make_table(["measure", *(f"after round {n}" for n in shown)], lines, ["measure"])
    return [{"title": "Choice of synthetic images", "note": NOTE, "table": table} | ({"verdict": verdict} if verdict else {})]


def latent_warning(run: RunReader) -> str:
    """Return a sentence where the validation loss hardly moved the latents of a simulation; empty for any other run."""
    return _little(run.config["method"]["gap"], _rounds(run))


def _little(gap: Mapping[str, Any], rounds: Rounds) -> str:
    ratios = [numbers["meta_ratio"] for numbers in rounds.values() if "meta_ratio" in numbers]
    if not ratios or median(ratios) >= LITTLE:
        return ""
    head = f"The validation loss pulls at the label converter with {100 * median(ratios):.2g} % of the feature gap's strength"
    if gap["balance"]:
        return f"{head}: both are brought to one norm, so that much of what moves latents may be the noise of a small gradient."
    return f"{head}, so latents follow the gap alone; set method.gap.balance=true, or a smaller method.gap.weight."


def _rounds(run: RunReader) -> Rounds:
    """Return the numbers of the first sites of a simulation, round by round; empty where nothing is chosen."""
    config, run_id = run.config, run.manifest.get("run_id")
    if config["federation"]["backend"] == "deployment" or config["method"]["source"] in ("none", "real", "random") or not run_id:
        return {}
    from mpssl_fed.federation.site.state import SiteState  # here: it brings torch in

    told = [SiteState(folder).numbers(run_id) for folder in run.sites[:MOST_SITES]]
    found: Rounds = {}
    for number in sorted({number for site in told for number in site}):
        here = [site[number] for site in told if number in site]
        found[number] = {key: median(one[key] for one in here if key in one) for key in {key for one in here for key in one}}
    return found
