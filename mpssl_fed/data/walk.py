"""Which files below a folder are images, and what else lies there. Train, test and site folders and ``predict`` walk alike.

By name and kind alone: nothing is opened, links are followed, and what is left out is kept by reason, to be counted and named.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mpssl_fed.data.decode import SUFFIXES
from mpssl_fed.errors import UserError
from mpssl_fed.names import shown, some

OTHER = f"not read by their suffix (read are {' '.join(SUFFIXES)}, in any case)"
HIDDEN = "hidden, or left by a tool"
DEAD = "dead links"
SPECIAL = "FIFOs, sockets or devices"
LOOP = "links back to a folder that is walked already, or holds it"
DEEP = "images in folders too deep"
FAR = "links to folders too deep (not looked into)"
BESIDE = "beside the class folders"
COPY = "links to or copies of an image that counts already"
LEAK = "test images that are copies of training images (used all the same, so accuracy flatters)"
HELD_OUT = "of the test split, so not trained on"
TRAINED_ON = "of the train split, so not evaluated on"
SHARED = "copies of an image of another subject (used all the same)"

NOTED = (LEAK, SHARED)
"""Reasons for which nothing is left out, only said."""

TOOLS = frozenset({
    "__MACOSX", "__pycache__", "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "$RECYCLE.BIN",
    "System Volume Information", "lost+found", "Thumbs.db", "desktop.ini",
})  # fmt: skip
"""Names that tools leave beside images; any other name is the user's, with whatever character it begins."""


@dataclass
class Skipped:
    """What was left out (or, where the reason says so, only noted), by reason. Printing :meth:`counts` shows no name."""

    found: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, reason: str, *paths: Path) -> None:
        """Keep ``paths`` under ``reason``."""
        if paths:
            self.found.setdefault(reason, []).extend(paths)

    def counts(self) -> str:
        """Return how many by reason, in one line; empty where nothing was left out."""
        return "; ".join(f"{len(paths)} {reason}" for reason, paths in self.found.items())

    def lines(self, most: int = 5) -> list[str]:
        """Return one line per reason, with up to ``most`` names."""
        words = {reason: "note" if reason in NOTED else "left out" for reason in self.found}
        return [f"{words[reason]}: {len(paths)} {reason}: {some(paths, most)}" for reason, paths in self.found.items()]

    def within(self, folder: Path, reasons: Iterable[str]) -> Mapping[str, list[Path]]:
        """Return what was left out below ``folder`` for one of ``reasons``."""
        below = {reason: [path for path in self.found.get(reason, ()) if folder in path.parents] for reason in reasons}
        return {reason: paths for reason, paths in below.items() if paths}


def entries(folder: Path, skipped: Skipped) -> tuple[list[Path], list[Path]]:
    """Return (folders, image files) directly in ``folder``, each sorted, links followed; the rest goes to ``skipped``.

    Raises UserError for a folder or an entry that may not be looked at: half of a data set would be missing in silence.
    """
    folders, images = [], []
    for item in _listed(folder):
        if item.name.startswith(".") or item.name in TOOLS:
            skipped.add(HIDDEN, item)
            continue
        mode = _mode(item)
        if mode is None:
            skipped.add(DEAD, item)
        elif stat.S_ISDIR(mode):
            folders.append(item)
        elif not stat.S_ISREG(mode):
            skipped.add(SPECIAL, item)
        elif item.suffix.lower() not in SUFFIXES:
            skipped.add(OTHER, item)
        else:
            images.append(item)
    return folders, images


def walk(root: Path, skipped: Skipped, links: bool = True) -> list[Path]:
    """Return the image files below ``root`` in depth, sorted. Each folder is walked once, whatever links lead to it.

    No link leads to a folder that holds ``root``: half a disk may lie there. links: whether links to folders are followed at all.
    """
    images: list[Path] = []
    seen: set[tuple[int, int]] = set() if not root.is_dir() else {identity(folder) for folder in root.resolve().parents}
    waiting = [root]
    while waiting:
        here = waiting.pop()
        if not links and here.is_symlink():
            skipped.add(FAR, here)
            continue
        if identity(here) in seen:
            skipped.add(LOOP, here)
            continue
        seen.add(identity(here))
        folders, files = entries(here, skipped)
        images += files
        waiting += reversed(folders)
    return sorted(images)


def deep_images(folders: Iterable[Path], skipped: Skipped) -> None:
    """Keep the images anywhere below ``folders``, which lie below the depth that is read; links are named, not followed."""
    for folder in folders:
        skipped.add(DEEP, *walk(folder, skipped, links=False))


def without_loops(folders: Iterable[Path], above: Iterable[Path], skipped: Skipped) -> list[Path]:
    """Return ``folders`` without links to one of the folders ``above`` them or what holds these, which go to ``skipped``."""
    known = {identity(folder) for one in above for folder in (one, *one.resolve().parents)}
    kept = []
    for folder in folders:
        if identity(folder) in known:
            skipped.add(LOOP, folder)
        else:
            kept.append(folder)
    return kept


def identity(path: Path) -> tuple[int, int]:
    """Return device and inode of what ``path`` leads to: equal for links to one file or folder."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"folder {shown(folder)} does not exist") from error
    except OSError as error:
        raise UserError(
            f"folder {shown(folder)} cannot be listed ({error.strerror}); let this user read it, or remove it"
        ) from error


def _mode(path: Path) -> int | None:
    """Return the kind of file that ``path`` leads to, None for a dead link."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return None
        raise UserError(f"{shown(path)} cannot be looked at ({error.strerror}); let this user read it, or remove it") from error
