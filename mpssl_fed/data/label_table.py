"""Who holds what: counts of labels by site, as an array and as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpssl_fed.names import distinct, shown, width

WIDEST = 16  # classes that still get a column each in a terminal
COLUMN = 9  # columns of a terminal that a class's name may take at the head of its own


def label_table(y: np.ndarray, parts: Sequence[np.ndarray], classes: Sequence[str]) -> np.ndarray:
    """Return counts int64 [sites, K] of the labels ``y`` [n] that each part holds."""
    return np.stack([np.bincount(np.asarray(y)[part], minlength=len(classes)) for part in parts])


def describe_partition(y: np.ndarray, parts: Sequence[np.ndarray], classes: Sequence[str]) -> str:
    """Return a plain-text table of who holds what, one line per site; for many classes each site's three largest.

    Names that are too long for their column stand there in a short form of their own, and whole below the table.
    """
    table = label_table(y, parts, classes)
    whole = []
    if len(classes) <= WIDEST:
        heads = distinct(classes, COLUMN)
        whole = [f"{head}: {shown(name)}" for head, name in zip(heads, classes, strict=True) if head != shown(name)]
        rows = [["site", *heads, "all"]]
        rows += [[str(site), *(str(count) if count else "." for count in row), str(row.sum())] for site, row in enumerate(table)]
        rows += [["all", *map(str, table.sum(0)), str(table.sum())]]
    else:
        rows = [["site", "classes", "all", "most"]]
        for site, row in enumerate(table):
            top = [f"{shown(classes[k])} {row[k]}" for k in np.argsort(-row, kind="stable")[:3] if row[k]]
            rows.append([str(site), str((row > 0).sum()), str(row.sum()), ", ".join(top)])
        rows.append(["all", str((table.sum(0) > 0).sum()), str(table.sum()), ""])
    widths = [max(width(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(" " * (w - width(cell)) + cell for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    sizes = table.sum(1)
    held = (table > 0).sum(1)
    summary = (
        f"{len(table)} sites hold {sizes.sum()} labelled images: {sizes.min()} to {sizes.max()} per site, "
        f"{held.min()} to {held.max()} of {len(classes)} classes per site"
    )
    return "\n".join([*lines, *whole, summary])
