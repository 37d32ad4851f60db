"""What a report shows of one run's diagnosis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpssl_fed.report.diagnosis import collapsed, varies_little
from mpssl_fed.report.table import make_table
from mpssl_fed.runs.reader import read_diagnosis

NOTE = (
    "Features of the trained model. Gap: squared distance of the mean features, over the spread of real ones. Coverage: share of "
    "held-out real images with a synthetic one nearer than their fifth real neighbour; precision: share of synthetic images that "
    "near to a real one. Cosines compare a weak and a strong view. Collapsed: different images look the same to the model."
)


MEASURES = (
    ("feature gap to real images", "gap", 2),
    ("coverage of real images", "coverage", 2),
    ("precision", "precision", 2),
    ("cosine of two views of one image", "pair", 3),
    ("its standard deviation", "pair_std", 3),
    ("cosine of views of two images", "others", 3),
    ("directions that the features fill", "rank", 1),
    ("pixels changed between views, over the distance of two images", "change", 2),
)


def run_diagnosis(folder: Path) -> list[dict[str, Any]]:
    """Return the section of one run; none where it was not diagnosed."""
    found = read_diagnosis(folder)
    if found is None:
        return []
    lines = [[name, *(f"{found[of][key]:.{digits}f}" for of in ("synthetic", "real"))] for name, key, digits in MEASURES]
    for name, flag in (("collapsed", collapsed), ("views vary too little", varies_little)):
        lines.append([name, *("yes" if flag(found[of]) else "no" for of in ("synthetic", "real"))])
    table = make_table(["measure", "synthetic images", "other real images"], lines, ["measure"])
    return [{"title": "Diagnosis", "note": f"{found['images']} images of a kind. {NOTE}", "table": table}]
