"""What a deployed site has on its own disk: its labelled images, and the folder of everything that never leaves."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from mpssl_fed.config import Config
from mpssl_fed.config.data import Fit, plain
from mpssl_fed.data.datasets import Images
from mpssl_fed.data.folder import site_csv, site_folder
from mpssl_fed.data.formats.pixel_cache import place_of
from mpssl_fed.data.held_out import KEY_BYTES
from mpssl_fed.data.listing import Files
from mpssl_fed.data.preparation import Preparation
from mpssl_fed.data.site_csv import named_files
from mpssl_fed.data.walk import COPY, HELD_OUT
from mpssl_fed.errors import UserError
from mpssl_fed.federation.refusal import Refusal
from mpssl_fed.files import kept_secret, parse_json
from mpssl_fed.names import shown

ABOUT = "about-the-data.txt"
"""In the state folder: what a log for machines does not say of the data when a daemon starts."""

ERASED = ("rounds", "audit", "cache", "site-report.html", "samples.png", "dossier.html", "dossier.md", ABOUT)
"""What ``wipe`` deletes. The ledger is never among it: what was spent stays spent."""


SPLIT_KEY = "held-out.key"


@dataclass
class OwnData:
    """A site's own images: ``path`` is a folder CLASS/* or a CSV file ``path,label[,subject][,site][,split]``.

    classes, size, stored_size, channels, fit, window: what the owner agreed to; a task with other names, in another order or of
    another shape is refused. white_level: as :class:`Preparation` has it. Images are read once and kept, so that a file which
    changes counts from the next start. Raises UserError from :meth:`check` for whatever is wrong with the files.
    """

    path: Path
    classes: tuple[str, ...]
    subjects: str | None = None
    size: int = 32
    channels: int = 3
    stored_size: int | None = None
    fit: Fit = "crop"
    white_level: float | None = None
    window: tuple[float, float] | None = None
    _loaded: Images | None = field(default=None, repr=False)
    _tested: bool = field(default=False, repr=False)

    def check(self) -> str:
        """Read everything: an unknown class, a broken file or an empty folder is an error now, not in round 7.

        Returns in one line how much was left out by reason, empty for nothing: no name, so that a log may hold it.
        """
        if not self.path.exists():
            raise UserError(f"--data {shown(self.path)}: does not exist; is its disk mounted?")
        files = self._listed()
        self._loaded, self._tested = self._decoded(files), HELD_OUT in files.skipped.found
        return files.skipped.counts()

    def subjects_found(self) -> dict[str, int | bool | None] | None:
        """Return how many subjects :meth:`check` found, and that none is also in the test split (None: there is none); None where
        the images name no subject."""
        subjects = self.images().subjects
        return None if subjects is None else {"count": len(set(subjects)), "test_disjoint": True if self._tested else None}

    def images(self) -> Images:
        """Return the images, at stored_size or size, and channels."""
        if self._loaded is None:
            self._loaded = self._decoded(self._listed())
        return self._loaded

    def labelled(self, config: Config) -> Images:
        """Return the images for the task of ``config``; Refusal ``classes`` or ``image-shape`` where it is another task than the
        owner agreed to."""
        task = config.data.task
        if task is None or task.classes != self.classes:
            raise Refusal("classes")
        if (task.size, task.stored_size or task.size, task.channels, task.fit, plain(task.window)) != self._shape:
            raise Refusal("image-shape")
        return self.images()

    def files(self) -> list[Path]:
        """Return every file and folder whose reading would show private data."""
        if self.is_csv:
            named = named_files(self.path)
            return [self.path, *named, *place_of(len(named))]
        listed = self._listed()
        copies = listed.skipped.found.get(COPY, ())
        return [self.path, *(row[0] for row in listed.rows), *copies, *place_of(len(listed.rows))]

    @property
    def is_csv(self) -> bool:
        """Whether the data are named by a CSV file rather than by folders."""
        return self.path.is_file()

    @property
    def _shape(self) -> tuple[int, int, int, Fit, tuple[float, float] | None]:
        return self.size, self.stored_size or self.size, self.channels, self.fit, self.window

    def _decoded(self, files: Files) -> Images:
        prepared = Preparation(fit=self.fit, white_level=self.white_level, window=self.window)
        return files.read(self.stored_size or self.size, self.channels, prepared)

    def _listed(self) -> Files:
        return (site_csv if self.is_csv else site_folder)(self.path, self.classes, self.subjects)


def class_names(text: str) -> tuple[str, ...]:
    """Return the classes that ``--classes`` names: ``a,b,c``, a file with one per line, or a .json list, taken literally.

    Raises UserError for a file that holds no such list, fewer than two classes, or one twice.
    """
    file, is_file = Path(text), os.path.isfile(text)  # noqa: PTH113  a list of names may be too long for a path: no file then
    if file.suffix == ".json" and is_file:
        try:
            found = parse_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--classes {shown(text)}: {error}; want a JSON list of names") from error
        if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
            raise UserError(f"--classes {shown(text)}: want a JSON list of names")
        names = tuple(found)
    else:
        words = _lines(file, text) if is_file else text.split(",")
        names = tuple(word.strip() for word in words if word.strip())
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice or len(names) < 2:
        reason = (
            f"'{shown(twice[0])}' stands there {names.count(twice[0])} times"
            if twice
            else f"{len(names)} class(es), want two or more"
        )
        raise UserError(f"--classes {shown(text)}: {reason}")
    return names


def _lines(file: Path, text: str) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {shown(text)}: {error}; want UTF-8 text, one class per line") from error


def split_key(state: Path) -> bytes:
    """Return the secret key by which a site holds images out (:mod:`mpssl_fed.data.held_out`), made once in its state folder.

    It lasts as long as the folder and is not among what ``wipe`` deletes: under another key images that were trained on would be
    held out. UserError for a file that is none.
    """
    return kept_secret(state / SPLIT_KEY, KEY_BYTES)


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
