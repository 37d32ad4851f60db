"""Lists ``path,label[,subject][,site][,split]`` in the place of a folder: which file is one, and what of it is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpssl_fed.data.decode import is_image
from mpssl_fed.data.formats.csv_text import may_be_list
from mpssl_fed.data.listing import Listing
from mpssl_fed.data.site_csv import read_list
from mpssl_fed.data.walk import Skipped


@dataclass(frozen=True)
class Evaluated:
    """The images of a list to evaluate on, sorted by file; whether they name subjects; the site of each, None where it has none,
    and of all of them where the list has no such column."""

    rows: Listing
    with_subjects: bool
    sites: tuple[str | None, ...] | None


def is_list(path: Path) -> bool:
    """Return whether ``path`` is taken for a list: by its suffix ``.csv``, or as a text that is no image. A folder never is."""
    try:
        if path.suffix.lower() == ".csv":
            return not path.is_dir()
        return path.is_file() and not is_image(path) and may_be_list(path)
    except (OSError, ValueError):  # a name that is too long or holds NUL: the reader of images says so
        return False


def evaluated(path: Path, classes: Sequence[str], subjects: str | None, skipped: Skipped) -> Evaluated:
    """Return the images of a list to evaluate on: those of its test split, all of them where it has no column ``split``.

    ``skipped`` gets what was left out. Sorted, so that the order of the lines changes no bit of what is measured. Raises UserError
    as :func:`read_list`, and for a list whose split says train everywhere.
    """
    found = read_list(path, classes, subjects, to_train=False)
    for reason, files in found.skipped.found.items():
        skipped.add(reason, *files)
    test = found.tested(path)
    rows = sorted(found.train if test is None else test)
    sites = None if found.site is None else tuple(found.site.get(file) for file, _, _ in rows)
    return Evaluated(rows, found.with_subjects, sites)
