"""What a deployed site has on its own disk: its labelled images, and the folder of everything that never leaves."""

from __future__ import annotations

import csv
import os
import re
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

from mpssl_fed import environment
from mpssl_fed.config import Config
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.folder import list_classes, load_site_csv, load_site_folder
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal

ERASED = ("rounds", "audit", "cache", "site-report.html", "samples.png")
"""What ``wipe`` deletes. The ledger is never among it: what was spent stays spent."""


@dataclass
class OwnData:
    """A site's own images: ``path`` is a folder CLASS/* or a CSV file ``path,label[,subject]``.

    classes, size, stored_size, channels: what the owner agreed to; a task with other names, in another order or of another shape
    is refused. Images are read once and kept, so that a file which changes counts from the next start. Raises UserError from
    :meth:`check` for whatever is wrong with the files.
    """

    path: Path
    classes: tuple[str, ...]
    subjects: str | None = None
    size: int = 32
    channels: int = 3
    stored_size: int | None = None
    _loaded: Images | None = field(default=None, repr=False)

    def check(self) -> None:
        """Read everything: an unknown class, a broken file or an empty folder is an error now, not in round 7."""
        self.images()

    def images(self) -> Images:
        """Return the images, at stored_size or size, and channels."""
        if self._loaded is None:
            read = load_site_csv if self.is_csv else self._folder
            self._loaded = read(self.path, self.classes, self.stored_size or self.size, self.channels)
        return self._loaded

    def labelled(self, config: Config) -> Images:
        """Return the images for the task of ``config``; Refusal ``classes`` or ``image-shape`` where it is another task than the
        owner agreed to."""
        task = config.data.task
        if task is None or task.classes != self.classes:
            raise Refusal("classes")
        if (task.size, task.stored_size or task.size, task.channels) != (self.size, self.stored_size or self.size, self.channels):
            raise Refusal("image-shape")
        return self.images()

    def files(self) -> list[Path]:
        """Return every file and folder whose reading would show private data."""
        if not self.is_csv:
            return [self.path, *(row[0] for row in list_classes(self.path, self.classes, self.subjects))]
        with open(self.path, encoding="utf-8-sig", newline="") as file:
            return [self.path, *(self.path.parent / row["path"] for row in csv.DictReader(file))]

    @property
    def is_csv(self) -> bool:
        """Whether the data are named by a CSV file rather than by folders."""
        return self.path.is_file()

    def _folder(self, path: Path, classes: tuple[str, ...], size: int, channels: int) -> Images:
        return load_site_folder(path, classes, size, channels, self.subjects)


def state_folder(name: str) -> Path:
    """Return ``$XDG_STATE_HOME/mpssl-fed/NAME``, the 0700 folder of one site; UserError for a name that is no folder name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise UserError(f"site name '{name}': want letters, digits, '-', '_' and '.', for example site-0")
    return environment.state_folder() / name


def make_private(folder: Path) -> Path:
    """Make ``folder`` 0700; UserError when it belongs to someone else."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.geteuid():
        raise UserError(f"{folder} belongs to another user; give it to this one, or choose another --state")
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def wipe(folder: Path) -> list[str]:
    """Erase latents, stored replies, caches and audit output of a site and return what was erased; the ledger stays."""
    gone = []
    for name in ERASED:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            continue
        gone.append(name)
    return gone
