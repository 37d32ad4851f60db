"""What the sites told of the global model on images that they hold out, as lines and rows to read.

The mapping is what a round keeps: ``{"unit", "confidence", "classes", "pooled": table or None, "sites": {site: table}, "asked",
"missing", "rejected"}`` with a table ``{"counts", "noise_std", "accuracy": [share, low, high], "sensitivity": [...],
"specificity": [...]}``; a share is None where nothing was counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MOST_LINES = 12
"""Sites, and classes, that lines are printed of; the report has all."""

Told = Mapping[str, Any]


def interval(share: Sequence[float | None]) -> str:
    """Return a share and its interval in words, such as ``0.812 (0.745 to 0.871)``; no share that may be any other."""
    value, low, high = share
    return "too few to tell" if value is None or (low, high) == (0, 1) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def noise(told: Told) -> str:
    """Return in words what is counted and how much noise lies in each count of a site's table."""
    stds = sorted({table["noise_std"] for table in told["sites"].values()})
    if not stds or stds == [0]:
        return f"{told['unit']}s, exact counts"
    least, most = (f"{std:.3g}" for std in (stds[0], stds[-1]))
    return f"{told['unit']}s, each count with noise of std {least}" + ("" if least == most else f" to {most}")


def absent(told: Told) -> str:
    """Return in words which of the sites told nothing; empty where all told."""
    left = [f"{n} {code}" for code, n in told["rejected"].items()] + ([f"{told['missing']} missing"] if told["missing"] else [])
    return ", ".join(left)


def lines(number: int, told: Told) -> list[str]:
    """Return what a terminal shows of the evaluation after round ``number``."""
    sites, pooled, left = told["sites"], told["pooled"], absent(told)
    percent = f"{100 * told['confidence']:g} % interval"
    head = f"at the sites after round {number}: {len(sites)} of {told['asked']} told ({noise(told)}; {percent})"
    found = [head + (f"; not: {left}" if left else "")]
    if pooled is None:
        return found
    found.append(f"  pooled: accuracy {interval(pooled['accuracy'])}")
    for k, name in enumerate(told["classes"][:MOST_LINES]):
        of_class = f"sensitivity {interval(pooled['sensitivity'][k])}, specificity {interval(pooled['specificity'][k])}"
        found.append(f"    {name}: {of_class}")
    found += [f"  site {site}: accuracy {interval(table['accuracy'])}" for site, table in list(sites.items())[:MOST_LINES]]
    if max(len(told["classes"]), len(sites)) > MOST_LINES:
        found.append(f"  classes and sites beyond the first {MOST_LINES} are in the report")
    return found


def rows(told: Told) -> list[list[str]]:
    """Return a table's rows: place, class, sensitivity, specificity; for each place first all classes together, its accuracy."""
    places = [("all sites", told["pooled"])] if told["pooled"] else []
    found = []
    for place, table in (*places, *((f"site {site}", table) for site, table in told["sites"].items())):
        found.append([place, "accuracy of all", interval(table["accuracy"]), ""])
        for k, name in enumerate(told["classes"]):
            found.append([place, name, interval(table["sensitivity"][k]), interval(table["specificity"][k])])
    return found


def fault(told: Any) -> bool:
    """Whether a line of metrics.jsonl holds something else in the place of such a mapping."""
    if not isinstance(told, dict):
        return True
    tables = told.get("sites")
    if not isinstance(tables, dict) or not isinstance(told.get("rejected"), dict) or not isinstance(told.get("classes"), list):
        return True
    found = [*tables.values(), *([] if told.get("pooled") is None else [told["pooled"]])]
    keys = {"counts", "noise_std", "accuracy", "sensitivity", "specificity"}
    return not {"unit", "confidence", "asked", "missing"} <= told.keys() or not all(
        isinstance(table, dict) and keys <= table.keys() for table in found
    )
