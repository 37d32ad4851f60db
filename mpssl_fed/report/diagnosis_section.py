"""What a report shows of one run's diagnosis."""

from __future__ import annotations

from typing import Any

from mpssl_fed.report.signs import collapsed, reached, varies_little
from mpssl_fed.report.table import NOTHING, make_table
from mpssl_fed.runs.reader import RunReader, read_diagnosis

NOTE = (
    "Features of the trained model. Noise: random pixels with the brightness and contrast of the real images. Coverage, gap and "
    "precision mean something only beside those of real images and of noise, since to a model that has learnt little all is alike."
)
HALF, MOST = 0.25, 0.75
"""Shares of the way from noise to real images from which on the data are said to be reached in part, and reached."""

MEASURES = (
    ("feature gap to real images", "gap", 2),
    ("coverage of real images", "coverage", 2),
    ("precision", "precision", 2),
    ("cosine of two views of one image", "pair", 3),
    ("its standard deviation", "pair_std", 3),
    ("cosine of views of two images", "others", 3),
    ("directions that the features fill (rank)", "rank", 1),
    ("pixels changed between views, over the distance of two images", "change", 2),
)


def run_diagnosis(run: RunReader) -> list[dict[str, Any]]:
    """Return the section of one run; none where it was not diagnosed."""
    found = read_diagnosis(run.path)
    if found is None:
        return []
    kinds = {"synthetic": "synthetic images", "real": "other real images", "noise": "noise"}
    kinds = {of: words for of, words in kinds.items() if of in found}  # older runs were not measured against noise
    lines = [[name, *(_number(found[of], key, digits) for of in kinds)] for name, key, digits in MEASURES]
    for name, flag in (("collapsed", collapsed), ("views vary too little", varies_little)):
        lines.append([name, *(("yes" if flag(found[of]) else "no") if "others" in found[of] else NOTHING for of in kinds)])
    share = reached(found)
    if "noise" in found:
        lines.insert(2, ["reach: coverage from noise (0 %) to real (100 %)", percent(share), "100 %", "0 %"])
    table = make_table(["measure", *kinds.values()], lines, ["measure"])
    note = f"{found['images']} images of each kind. {NOTE}"
    return [{"title": "Diagnosis", "verdict": verdict(found), "note": note, "table": table}]


def verdict(found: dict[str, Any]) -> str:
    """Return in plain words whether the synthetic images of a diagnosis reach the data."""
    if "noise" not in found:
        return "Measured before noise was: coverage counts beside that of other real images."
    share = reached(found)
    if share is None:
        return "To this model noise looks much like your images, so nothing can be said of how near the synthetic ones come."
    words = {"synthetic": "coverage", "noise": "noise", "real": "real"}
    numbers = ", ".join(f"{word} {found[of]['coverage']:.2f}" for of, word in words.items())
    if share <= 0:
        return f"The synthetic images do not reach the data: they come no nearer to it than noise ({numbers})."
    said = "hardly reach" if share < HALF else "reach part of" if share < MOST else "reach"
    return f"The synthetic images {said} the data: {percent(share)} of the way from noise to other real images ({numbers})."


def percent(share: float | None) -> str:
    """Return a share of the way as a table shows it; below 0 is farther than noise."""
    return NOTHING if share is None else f"{100 * share:.0f} %"


def _number(measured: dict[str, float], key: str, digits: int) -> str:
    return f"{measured[key]:.{digits}f}" if key in measured else NOTHING
