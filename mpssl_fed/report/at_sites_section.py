"""What a report says of the model at each site, as the sites told it of images that they hold out."""

from __future__ import annotations

from typing import Any

from mpssl_fed.report.table import make_table
from mpssl_fed.runs import at_sites
from mpssl_fed.runs.reader import RunReader

COLUMNS = ["place", "class", "sensitivity, or accuracy", "specificity"]
TERMS = {
    "sensitivity": "Share of a class's images (or subjects) that the model names as that class.",
    "specificity": "Share of all others that it does not name as that class.",
    "held out": "Images that a site never trains on; a keyed hash of the image or its subject decides which.",
}


def at_sites_sections(run: RunReader) -> list[dict[str, Any]]:
    """Return one section, of the last evaluation at the sites; none where there was none."""
    last = next((one for one in reversed(run.rounds) if one.at_sites is not None), None)
    if last is None or last.at_sites is None:
        return []
    told = last.at_sites
    earlier = [f"round {one.number}: {_accuracy(one.at_sites)}" for one in run.rounds if one.at_sites and one.number < last.number]
    absent = at_sites.absent(told)
    words = [
        f"The model after round {last.number}, on what each site holds out: {at_sites.noise(told)}.",
        f"{len(told['sites'])} of {told['asked']} sites told" + (f"; not: {absent}." if absent else "."),
        f"Shares with their {100 * told['confidence']:g} % intervals, which allow for chance and for the noise in the counts.",
        *([f"Pooled accuracy before: {'; '.join(earlier)}."] if earlier else []),
    ]
    table = make_table(COLUMNS, at_sites.rows(told), ["place", "class"])
    return [{"title": "At the sites", "note": " ".join(words), "table": table}]


def _accuracy(told: at_sites.Told) -> str:
    return "nobody told" if told["pooled"] is None else at_sites.interval(told["pooled"]["accuracy"])
