"""Image files with their labels and subjects before they are decoded, and the rule that one image counts once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mpssl_fed.data.base import Images
from mpssl_fed.data.decode import read_with_digests
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.data.walk import COPY, LEAK, SHARED, Skipped, identity
from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256
from mpssl_fed.names import shown

Row = tuple[Path, int, str]
"""File, label, subject ("" where subjects are not stated)."""
Listing = list[Row]
Where = Callable[[int], str]
"""Names a row of a listing to the user."""
Digests = dict[Path, str]
"""The SHA-256 of files that were read already."""

SHOWN = 3


@dataclass(frozen=True)
class Files:
    """The images of a part or a site: rows in a fixed order, whether they name subjects, and what was left out."""

    rows: Listing
    with_subjects: bool
    skipped: Skipped = field(default_factory=Skipped)

    def read(self, size: int, channels: int | None, prepared: Preparation | None = None) -> Images:
        """Decode them to Images at ``size`` x ``size``."""
        return to_images(self.rows, size, channels, self.with_subjects, prepared)


def to_images(
    listing: Listing, size: int, channels: int | None, with_subjects: bool, prepared: Preparation | None = None
) -> Images:
    """Decode a listing to Images at ``size`` x ``size``."""
    paths, labels, subjects = zip(*listing, strict=True)
    x, digests = read_with_digests(paths, size, channels, prepared)
    return Images(x, torch.tensor(labels, dtype=torch.int64), tuple(subjects) if with_subjects else None, digests)


def to_parts(
    train: Listing, test: Listing, size: int, with_subjects: bool, prepared: Preparation | None = None
) -> tuple[Images, Images]:
    """Decode both parts of a data set, grey if all of their images are."""
    both = to_images(train + test, size, None, with_subjects, prepared)
    return both.take(range(len(train))), both.take(range(len(train), len(both)))


def without_image(listing: Listing, classes: Sequence[str]) -> list[str]:
    """Return the classes of which the listing has no image."""
    there = {label for _, label, _ in listing}
    return [name for label, name in enumerate(classes) if label not in there]


def once(
    rows: Listing, skipped: Skipped, classes: Sequence[str], where: Where | None = None, digests: Digests | None = None
) -> Listing:
    """Return ``rows`` with each image once: of links to a file and of equal files the first counts.

    A unit of privacy that stood there twice would be bounded once and counted twice. Raises UserError for an image under two
    classes, and for a link under two subjects; equal files of two subjects (two black frames) are kept and noted.
    """
    name = where or (lambda i: shown(rows[i][0]))
    kept: Listing = []
    first: dict[tuple[object, str], int] = {}
    any_subject: dict[object, int] = {}
    trouble: list[str] = []
    inodes = [identity(path) for path, _, _ in rows]
    for i, (row, key) in enumerate(zip(rows, contents([path for path, _, _ in rows], digests), strict=True)):
        path, label, subject = row
        before = first.get((key, subject), any_subject.get(key))
        if before is None:
            pass
        elif rows[before][1] != label:
            two = f"'{shown(classes[rows[before][1]])}' and '{shown(classes[label])}'"
            trouble.append(f"{name(i)} and {name(before)} are one image in two classes, {two}")
        elif rows[before][2] == subject:
            skipped.add(COPY, path)
            continue
        elif inodes[before] == inodes[i]:
            two = f"'{shown(rows[before][2])}' and '{shown(subject)}'"
            trouble.append(f"{name(i)} and {name(before)} are one file under two subjects, {two}")
        else:
            skipped.add(SHARED, path)
        first[key, subject] = i
        any_subject.setdefault(key, i)
        kept.append(row)
    if trouble:
        more = f"; and {len(trouble) - SHOWN} more" if len(trouble) > SHOWN else ""
        raise UserError(f"{'; '.join(trouble[:SHOWN])}{more}. An image counts once: keep the right one")
    return kept


def note_leaks(train: Listing, test: Listing, skipped: Skipped, digests: Digests | None = None) -> None:
    """Note test images whose bytes are those of a training image; UserError for a link to one."""
    keys = contents([path for path, _, _ in train + test], digests)
    known = dict(zip(keys, (path for path, _, _ in train), strict=False))
    for (path, _, _), key in zip(test, keys[len(train) :], strict=True):
        if key not in known:
            continue
        if identity(path) == identity(known[key]):
            raise UserError(f"{shown(path)} is the training image {shown(known[key])} (a link); test on other images")
        skipped.add(LEAK, path)


def contents(paths: Sequence[Path], digests: Digests | None = None) -> list[object]:
    """Return a key for each file, equal where the bytes are: of files that share their size with another the SHA-256.

    digests: those that are known, to which this call adds, so that parts that are compared again are read once.
    """
    known = {} if digests is None else digests
    sizes = [path.stat().st_size for path in paths]
    common = Counter(sizes)
    keys: list[object] = []
    for path, size in zip(paths, sizes, strict=True):
        try:
            if common[size] > 1 and path not in known:
                known[path] = sha256(path)
            keys.append(known[path] if common[size] > 1 else size)
        except OSError as error:
            raise UserError(f"image file {shown(path)} cannot be read ({error.strerror}); let this user read it") from error
    return keys
