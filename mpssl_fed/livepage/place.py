"""What a folder is, a run, a study or a site's state, and its pieces at this moment for however many pages look at it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mpssl_fed.errors import UserError
from mpssl_fed.livepage.of_run import view_of_run
from mpssl_fed.livepage.of_site import view_of_site
from mpssl_fed.livepage.view import View, pieces
from mpssl_fed.names import shown
from mpssl_fed.runs.reader import CONFIG, MANIFEST, STUDY

FRESH_S = 0.5
"""So long one reading of the files serves all who ask."""

OF_A_SITE = ("site.sock", "ledger.sqlite", "rounds")


def view_of(folder: Path, socket: Path | None = None) -> Callable[[], View]:
    """Return what gives the view of ``folder``; UserError where it is nothing that can be watched."""
    if socket is not None:
        return lambda: view_of_site(folder, socket)
    if not folder.is_dir():
        raise UserError(f"{shown(folder)}: no such folder; name a run, a study or a site's state folder")
    if (folder / STUDY).is_file():
        from mpssl_fed.livepage.of_study import StudyView

        return StudyView(folder)
    if (folder / MANIFEST).is_file() or (folder / CONFIG).is_file():
        return lambda: view_of_run(folder)
    if any((folder / name).exists() for name in OF_A_SITE):
        return lambda: view_of_site(folder)
    raise UserError(f"{shown(folder)}: neither a run nor a study nor a site's state folder; a run has files once it has begun")


@dataclass
class Latest:
    """The pieces of ``view``, read anew at most every FRESH_S; where it cannot be read, the reason stands in its place."""

    view: Callable[[], View]
    name: str
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _read: float = float("-inf")
    _pieces: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> dict[str, str]:
        """Return {id: HTML}."""
        with self._lock:
            if time.monotonic() - self._read >= FRESH_S:
                self._pieces, self._read = pieces(self._view()), time.monotonic()
            return self._pieces

    def _view(self) -> View:
        try:
            return self.view()
        except (UserError, OSError) as error:  # a run that is being overwritten, a folder that has gone
            return View(self.name, "", "This cannot be shown now.", [str(error)])
        except Exception as error:  # noqa: BLE001  numbers that no run of ours wrote; without an answer the page would say that it has ended
            return View(self.name, "", "This cannot be shown.", [f"{type(error).__name__}: {error}"])
